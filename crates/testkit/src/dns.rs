//! A name server that knows a handful of names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::Netns;

/// Answers A questions over UDP: the addresses it was given, "no such name" for everything else.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<(IpAddr, String)>>>,
    thread: Option<JoinHandle<()>>,
}

const TYPE_A: u16 = 1;
const NO_SUCH_NAME: u8 = 3;

impl DnsServer {
    /// Listens inside `netns` (or where we are); `names` are lower-case.
    pub fn start(netns: Option<&Netns>, address: impl Into<SocketAddr>, names: &[(&str, Ipv4Addr)]) -> Self {
        let wanted = address.into();
        let bind = || UdpSocket::bind(wanted).unwrap_or_else(|error| panic!("cannot listen on {wanted}: {error}"));
        let socket = netns.map_or_else(bind, |netns| netns.enter(bind));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let address = socket.local_addr().expect("a bound socket has an address");
        let names: Vec<(String, Ipv4Addr)> = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (stopped, log) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread = thread::spawn(move || {
            let mut packet = [0; 512];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((length, peer)) = socket.recv_from(&mut packet) else { continue };
                let Some((name, reply)) = reply(&packet[..length], &names) else { continue };
                log.lock().unwrap_or_else(PoisonError::into_inner).push((peer.ip(), name));
                socket.send_to(&reply, peer).ok();
            }
        });
        Self { address, stop, asked, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who asked for which name.
    pub fn asked(&self) -> Vec<(IpAddr, String)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The name asked for and the answer, if `packet` is one plain question.
fn reply(packet: &[u8], names: &[(String, Ipv4Addr)]) -> Option<(String, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = packet.get(12..at + 4)?;
    let name = labels.join(".");
    let kind = u16::from_be_bytes([packet[at], packet[at + 1]]);
    let known = names.iter().find(|(known, _)| *known == name);
    let answer = known.filter(|_| kind == TYPE_A).map(|(_, address)| address.octets());
    let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
    let mut reply = packet.get(..2)?.to_vec();
    // Response, recursion desired and available; one question, so many answers, nothing else.
    reply.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(answer.is_some()), 0, 0, 0, 0]);
    reply.extend(question);
    if let Some(octets) = answer {
        // The name by pointer to the question; type A, class IN, 60 seconds, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(octets);
    }
    Some((name, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str) -> Vec<u8> {
        let mut packet = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(u8::try_from(label.len()).unwrap());
            packet.extend(label.as_bytes());
        }
        packet.extend([0, 0, 1, 0, 1]);
        packet
    }

    #[test]
    fn known_and_unknown_names() {
        let server = DnsServer::start(None, ([127, 0, 0, 1], 0), &[("web.test", Ipv4Addr::new(192, 0, 2, 2))]);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ask = |name: &str| {
            socket.send_to(&question(name), server.address()).unwrap();
            let mut packet = [0; 512];
            let length = socket.recv(&mut packet).unwrap();
            packet[..length].to_vec()
        };
        let known = ask("web.test");
        assert_eq!((&known[..2], known[3] & 15, known[7]), (&[0xab, 0xcd][..], 0, 1));
        assert!(known.ends_with(&[192, 0, 2, 2]));
        assert_eq!(ask("no.test")[3] & 15, NO_SUCH_NAME);
        assert_eq!(server.asked().len(), 2);
        assert!(reply(b"rubbish", &[]).is_none());
    }
}
