//! Name service: a played guest asks, a played name server answers (or does not).
//! Each test runs in a network namespace of its own.
#![allow(clippy::unwrap_used, clippy::wildcard_imports)] // helpers of tests may panic; the support module is one vocabulary

mod net_support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net_support::*;
use rustix::event::{Timespec, poll};
use smolvm_host::net::dns::{DnsError, Forwarder};
use smolvm_model::network;

/// A forwarder in a thread that waits as the monitor does.
struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(mut forwarder: Forwarder) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                let tick = Duration::from_millis(20);
                let timeout = Timespec::try_from(forwarder.timeout().unwrap_or(tick).min(tick)).unwrap();
                poll(&mut forwarder.poll_fds(), Some(&timeout)).unwrap();
                let start = Instant::now();
                forwarder.handle();
                assert!(start.elapsed() < Duration::from_secs(2), "the forwarder waited");
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok(), "the forwarder panicked");
    }
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(u8::try_from(name.len()).unwrap());
    message.extend(name.bytes());
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn answer(question: &[u8], size: usize) -> Vec<u8> {
    let mut message = question.to_vec();
    message[2] |= 0x80;
    message.resize(message.len().max(size), 0xaa);
    message
}

/// The next reply to the guest: its id, flags, length.
fn reply(guest: &Played) -> (u16, [u8; 2], usize) {
    guest.expect("a reply from the gateway", |frame| {
        let (from, port, _) = read_udp(frame)?;
        assert_eq!((from, port), (pool().gateway(), 53));
        let message = &frame[42..];
        Some((u16::from_be_bytes([message[0], message[1]]), [message[2], message[3]], message.len()))
    })
}

fn resolv_conf(dir: &tempfile::TempDir, servers: &[&str]) -> PathBuf {
    let path = dir.path().join("resolv.conf");
    let text = servers.iter().fold(String::new(), |text, server| text + "nameserver " + server + "\n");
    std::fs::write(dir.path().join("new"), text).unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    path
}

fn upstream(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn take(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 5000];
    let (len, from) = socket.recv_from(&mut buffer).expect("the name server waited in vain");
    buffer.truncate(len);
    (buffer, from)
}

fn ask(guest: &Played, id: u16, name: &str) {
    guest.ipv4(pool().gateway(), 17, &udp(4000, 53, &question(id, name)));
}

fn admitted(name: &str, n: u8) -> Played {
    let played = Played::new(name, n);
    apply(&(network::base(&base()) + &network::add(&install(), std::slice::from_ref(&played.guest)))).unwrap();
    played
}

fn forward(guest: &Played, conf: &std::path::Path) -> Forwarder {
    Forwarder::bind(pool().gateway(), &guest.guest.tap, conf).unwrap()
}

#[test]
fn each_guest_asks_through_its_own_forwarder_at_the_same_address() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let conf = resolv_conf(&dir, &["127.0.0.1"]);
        let server = upstream("127.0.0.1");
        let (a, b) = (admitted("vm-a", 0), admitted("vm-b", 1));
        let _both = [Running::start(forward(&a, &conf)), Running::start(forward(&b, &conf))];
        for (guest, id) in [(&a, 7), (&b, 7)] {
            ask(guest, id, "example");
            let (query, from) = take(&server);
            assert_eq!(&query[2..], &question(id, "example")[2..], "the question goes on as it is");
            // A stranger's answer, one with another id and one that is no answer are passed over.
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&answer(&query, 60), from).unwrap();
            let mut wrong = answer(&query, 61);
            wrong[0] ^= 0xff;
            server.send_to(&wrong, from).unwrap();
            server.send_to(&query, from).unwrap();
            server.send_to(&answer(&query, 62), from).unwrap();
            assert_eq!(reply(guest), (id, [0x81, 0], 62));
        }
    });
}

#[test]
fn ids_and_ports_upstream_are_not_the_guests() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let server = upstream("127.0.0.1");
        let a = admitted("vm-a", 0);
        let _running = Running::start(forward(&a, &resolv_conf(&dir, &["127.0.0.1"])));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            ask(&a, 7, "example");
            let (query, from) = take(&server);
            seen.insert((from.port(), query[0], query[1]));
            server.send_to(&answer(&query, 0), from).unwrap();
            reply(&a);
        }
        assert_eq!(seen.len(), 8);
        assert!(seen.iter().any(|(_, high, low)| (*high, *low) != (0, 7)));
    });
}

#[test]
fn dead_servers_are_passed_over_and_a_changed_list_is_used() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let a = admitted("vm-a", 0);
        // Nobody listens on the first: the kernel says so, and the second is asked at once.
        let conf = resolv_conf(&dir, &["127.0.0.2", "127.0.0.1"]);
        let server = upstream("127.0.0.1");
        let _running = Running::start(forward(&a, &conf));
        ask(&a, 1, "one");
        let (query, from) = take(&server);
        server.send_to(&answer(&query, 0), from).unwrap();
        assert_eq!(reply(&a).0, 1);
        // None at all, or none that listens: the guest is told, and does not wait.
        for servers in [&[][..], &["127.0.0.2", "127.0.0.3"]] {
            resolv_conf(&dir, servers);
            ask(&a, 2, "two");
            assert_eq!(reply(&a), (2, [0x81, 0x82], question(2, "two").len()), "not a SERVFAIL");
        }
        let other = upstream("127.0.0.9");
        resolv_conf(&dir, &["127.0.0.9"]);
        ask(&a, 3, "three");
        let (query, from) = take(&other);
        // One that is silent is passed over too, after its time.
        other.send_to(&answer(&query, 0), from).unwrap();
        assert_eq!(reply(&a).0, 3);
        resolv_conf(&dir, &["127.0.0.9", "127.0.0.1"]);
        ask(&a, 4, "four");
        take(&other);
        let (query, from) = take(&server);
        server.send_to(&answer(&query, 0), from).unwrap();
        assert_eq!(reply(&a).0, 4);
    });
}

#[test]
fn floods_nonsense_and_giants_stay_within_bounds() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let server = upstream("127.0.0.1");
        let a = admitted("vm-a", 0);
        let mut forwarder = forward(&a, &resolv_conf(&dir, &["127.0.0.1"]));
        let gateway = pool().gateway();
        let mut transfer = question(1, "zone");
        transfer[19] = 252;
        let mut update = question(1, "zone");
        update[2] = 5 << 3;
        for nonsense in [vec![], vec![0; 11], vec![0xff; 512], vec![0; 4000], transfer, update, answer(&question(1, "x"), 0)] {
            a.ipv4(gateway, 17, &udp(4000, 53, &nonsense));
        }
        for n in 0..200 {
            ask(&a, n, "flood");
            if n % 16 == 0 {
                forwarder.handle();
            }
        }
        forwarder.handle();
        assert_eq!(forwarder.poll_fds().len(), 64 + 2, "64 questions wait, and two sockets listen");
        let _running = Running::start(forwarder);
        let mut first = None;
        for _ in 0..64 {
            let (query, from) = take(&server);
            assert!(query.windows(5).any(|w| w == b"flood"), "nonsense went on");
            first.get_or_insert((query, from));
        }
        let (query, from) = first.unwrap();
        server.send_to(&answer(&query, 4097), from).unwrap();
        let (_, flags, len) = reply(&a);
        assert_eq!((flags, len), ([0x83, 0], question(0, "flood").len()), "a giant is answered by: ask over TCP");
    });
}

#[test]
fn questions_over_tcp_are_spliced_and_inspected() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:53").unwrap();
        // This guest is a namespace with a network stack of its own, so that it speaks TCP.
        let inside = Elsewhere::new();
        let guest = guest("vm-a", 0);
        inside.wire((guest_device(), "10.9.0.1/32"), ("eth0", "10.9.0.2/32"));
        inside.run(|| ip("route add 10.9.0.1 dev eth0"));
        ip(&format!("route add 10.9.0.2 dev {}", guest_device()));
        assert_eq!(guest.tap.as_str(), guest_device());
        let conf = resolv_conf(&dir, &["127.0.0.1"]);
        let _running = Running::start(Forwarder::bind(pool().gateway(), &guest.tap, &conf).unwrap());
        let framed = |message: &[u8]| [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat();
        let (tell, served) = mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; u16::from_be_bytes(length).into()];
                    stream.read_exact(&mut query).unwrap();
                    let big = answer(&query, 60_000);
                    stream.write_all(&[&60_000_u16.to_be_bytes()[..], &big].concat()).unwrap();
                    tell.send(query).unwrap();
                }
            }
        });
        // Two questions on one connection, the first in two pieces; answers larger than the buffer between.
        let bytes = framed(&question(5, "tcp"));
        inside.run(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::new(10, 9, 0, 1), 53)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes[..7]).unwrap();
            stream.write_all(&bytes[7..]).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut both = vec![0; 2 * 60_002];
            stream.read_exact(&mut both).unwrap();
            assert_eq!((&both[..4], &both[60_002..60_006]), (&[0xea, 0x60, 0, 5][..], &[0xea, 0x60, 0, 5][..]));
        });
        assert_eq!(served.recv_timeout(PATIENCE).unwrap(), question(5, "tcp"));
        served.recv_timeout(PATIENCE).unwrap();
        // A zone transfer is not passed on: the connection ends.
        let mut transfer = question(1, "zone");
        let at = transfer.len() - 3;
        transfer[at] = 252;
        let bytes = framed(&transfer);
        inside.run(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::new(10, 9, 0, 1), 53)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(&bytes).unwrap();
            assert_eq!(stream.read(&mut [0; 10]).unwrap_or(0), 0);
        });
        assert!(served.recv_timeout(Duration::from_millis(200)).is_err(), "the transfer was passed on");
    });
}

/// The device of [`guest`]`("vm-a", 0)`.
fn guest_device() -> &'static str {
    "svt3ga4qpai77ua"
}

#[test]
fn a_name_server_of_the_host_on_all_addresses_is_told_apart() {
    in_namespace(|| {
        let a = admitted("vm-a", 0);
        let _taken = UdpSocket::bind("0.0.0.0:53").unwrap();
        let bound = Forwarder::bind(pool().gateway(), &a.guest.tap, std::path::Path::new("/etc/resolv.conf"));
        assert!(matches!(bound, Err(DnsError::PortTaken { .. })), "{bound:?}");
    });
}
