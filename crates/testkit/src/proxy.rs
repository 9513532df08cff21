//! A proxy that makes tunnels (`CONNECT`) to the places a test has, whatever they are called.

use std::io::{Write, copy};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::{Shutdown, shutdown};

use crate::Netns;
use crate::answers::{Asked, read};

/// A proxy on the loopback.
#[derive(Debug)]
pub struct TunnelProxy {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl TunnelProxy {
    /// Every tunnel leads to `to`; who does not say this in `Proxy-Authorization` gets none.
    pub fn start(netns: Option<&Netns>, to: SocketAddr, authorization: &str) -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let listener = Arc::new(netns.map_or_else(bind, |netns| netns.enter(bind)));
        let address = listener.local_addr().expect("a bound socket has an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, accepts, authorization) = (Arc::clone(&asked), Arc::clone(&listener), authorization.to_owned());
        // A thread that connects has to be where the server is; one that listens need not.
        let serve_all = move || {
            while let Ok((stream, _)) = accepts.accept() {
                serve(stream, to, &authorization, &log).ok();
            }
        };
        match netns {
            Some(netns) => drop(netns.enter(|| thread::spawn(serve_all))),
            None => drop(thread::spawn(serve_all)),
        }
        Self { address, listener, asked }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked of it.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TunnelProxy {
    fn drop(&mut self) {
        shutdown(&self.listener, Shutdown::Both).ok();
    }
}

fn serve(mut client: TcpStream, to: SocketAddr, authorization: &str, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let asked = read(&client)?;
    let known = asked.header("proxy-authorization") == Some(authorization);
    let tunnel = asked.method == "CONNECT";
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    if !known || !tunnel {
        let status = if known { "405 Only Tunnels" } else { "407 Who Are You" };
        return write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 Here You Are\r\n\r\n")?;
    let pipe = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            copy(&mut from, &mut to).ok();
            to.shutdown(std::net::Shutdown::Write).ok();
        })
    };
    pipe(client.try_clone()?, server.try_clone()?);
    pipe(server, client);
    Ok(())
}
