//! A web server of a hundred lines, for guests to reach.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Netns;

/// One request, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose address the server saw: after translation the host's.
    pub peer: IpAddr,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The body, at most a mebibyte of it.
    pub body: Vec<u8>,
}

/// Answers every request with the file of that path, or with a page that says who asked; beneath `/v2/`, as a registry has it, with 404.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

type Files = Vec<(String, Vec<u8>)>;

impl HttpServer {
    /// Listens inside `netns` (or where we are) on `address`; port 0 takes a free one.
    pub fn start(netns: Option<&Netns>, address: impl Into<SocketAddr>) -> Self {
        Self::with_files(netns, address, &[])
    }

    /// The same, with files: `("/hello.txt", b"hello")`.
    pub fn with_files(netns: Option<&Netns>, address: impl Into<SocketAddr>, files: &[(&str, &[u8])]) -> Self {
        let wanted = address.into();
        let bind = || TcpListener::bind(wanted).unwrap_or_else(|error| panic!("cannot listen on {wanted}: {error}"));
        let listener = netns.map_or_else(bind, |netns| netns.enter(bind));
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let files: Files = files.iter().map(|(path, body)| ((*path).to_owned(), body.to_vec())).collect();
        let (stopped, log) = (Arc::clone(&stop), Arc::clone(&seen));
        // A socket stays in the namespace it was made in, so the thread need not be inside.
        let thread = thread::spawn(move || serve(&listener, &stopped, &log, &Arc::new(files)));
        Self { address, stop, seen, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool, seen: &Arc<Mutex<Vec<Request>>>, files: &Arc<Files>) {
    let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&tick)), Ok(1..)) {
            continue;
        }
        let Ok((stream, peer)) = listener.accept() else { continue };
        let (seen, files) = (Arc::clone(seen), Arc::clone(files));
        thread::spawn(move || {
            // A peer that goes away in the middle is the peer's business.
            answer(stream, peer.ip(), &seen, &files).ok();
        });
    }
}

fn answer(mut stream: TcpStream, peer: IpAddr, seen: &Mutex<Vec<Request>>, files: &Files) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(1 << 20));
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    let (status, page) = match files.iter().find(|(name, _)| *name == path) {
        Some((_, file)) => ("200 OK", file.clone()),
        // A registry that has no such thing says so.
        None if path.starts_with("/v2/") => ("404 Not Found", Vec::new()),
        None => ("200 OK", format!("peer={peer}\n").into_bytes()),
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(Request { peer, method, path, body });
    write!(stream, "HTTP/1.0 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", page.len())?;
    stream.write_all(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn pages_files_and_a_log() {
        let server = HttpServer::with_files(None, ([127, 0, 0, 1], 0), &[("/a", b"file a")]);
        assert!(get(server.address(), "GET /a HTTP/1.0\r\n\r\n").ends_with("\r\n\r\nfile a"));
        assert!(get(server.address(), "POST /b HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi").ends_with("peer=127.0.0.1\n"));
        let log = server.requests();
        assert_eq!(log.len(), 2);
        assert_eq!((log[1].method.as_str(), log[1].path.as_str(), log[1].body.as_slice()), ("POST", "/b", b"hi".as_slice()));
    }
}
