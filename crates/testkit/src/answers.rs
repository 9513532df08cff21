//! A web server that answers as a test says: for registries that redirect, ask for tokens, or lie.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};

/// What somebody asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The headers, their names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body, at most a mebibyte of it.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// A status without anything.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// What was asked for.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// A part of it.
    pub fn partial(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 206, body: body.into(), ..Self::default() }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A server on the loopback whose answers are a function of what is asked.
#[derive(Debug)]
pub struct Answers {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Answers {
    /// Listens on a free port.
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let (asked, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let (log, accepts) = (Arc::clone(&asked), Arc::clone(&listener));
        thread::spawn(move || {
            // It ends when the socket is shut down.
            while let Ok((stream, _)) = accepts.accept() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // A peer that goes away in the middle is the peer's business.
                thread::spawn(move || serve(stream, &log, answer.as_ref()).ok());
            }
        });
        Self { address, listener, asked }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        shutdown(&self.listener, Shutdown::Both).ok();
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let asked = read(&stream)?;
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let Reply { status, headers, body } = answer(&asked);
    write!(stream, "HTTP/1.1 {status} As Asked\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    stream.write_all(&body)
}

/// One request.
pub(crate) fn read(stream: &TcpStream) -> std::io::Result<Asked> {
    let mut reader = BufReader::new(stream.try_clone()?.take(1 << 20));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = Vec::new();
    reader.take(length.unwrap_or(0)).read_to_end(&mut body)?;
    Ok(Asked { method, path, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_as_it_is_told_until_it_goes() {
        let server = Answers::start(|asked| Reply::ok(asked.body.clone()).header("x-path", &*asked.path));
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(b"POST /a?b HTTP/1.1\r\nX-Two: 2\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("x-path: /a?b\r\n") && text.ends_with("\r\n\r\nhi"), "{text}");
        assert_eq!((server.asked()[0].method.as_str(), server.asked()[0].header("x-two")), ("POST", Some("2")));
        let address = server.address();
        drop(server);
        crate::until("nobody listens", Duration::from_secs(5), || TcpStream::connect(address).is_err().then_some(()));
    }
}
