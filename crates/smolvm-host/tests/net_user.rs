//! The user-mode network: a played guest behind the real passt, and behind the real QEMU.
//! Each test runs in a network namespace of its own.
#![allow(unsafe_code)] // descriptors kept open over an exec
#![allow(clippy::unwrap_used, clippy::wildcard_imports)] // helpers of tests may panic; the support module is one vocabulary

mod net_support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net_support::*;
use rustix::event::{Timespec, poll};
use smolvm_host::net::user::{self, Health, UserNet, UserSpec};
use smolvm_model::network::GATEWAY_MAC;

const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const UID: u32 = 1_900_000_123;

fn spec_for(name: &str, resolv_conf: &Path) -> (smolvm_model::network::Guest, UserSpec) {
    let guest = guest(name, 0);
    let spec = UserSpec {
        guest_mac: guest.mac,
        guest_address: guest.address,
        gateway: pool().gateway(),
        run_as: Some(UID),
        resolv_conf: resolv_conf.to_owned(),
    };
    (guest, spec)
}

/// A running network, handled by a thread as the monitor would, and the guest at its end.
struct Behind {
    guest: smolvm_model::network::Guest,
    stream: UnixStream,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Health>>,
    pid: u32,
}

impl Behind {
    fn start(resolv_conf: &Path) -> Self {
        let (guest, spec) = spec_for("vm-a", resolv_conf);
        let (net, fd) = user::start(&spec).unwrap();
        Self::hold(guest, net, UnixStream::from(fd))
    }

    fn hold(guest: smolvm_model::network::Guest, mut net: UserNet, stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, pid) = (stop.clone(), net.pid());
        let thread = std::thread::spawn(move || {
            let mut health = Health::Up;
            while !flag.load(Ordering::Relaxed) {
                let tick = Duration::from_millis(20);
                let timeout = Timespec::try_from(net.timeout().unwrap_or(tick).min(tick)).unwrap();
                poll(&mut net.poll_fds(), Some(&timeout)).unwrap();
                health = net.handle();
            }
            health
        });
        Self { guest, stream, stop, thread: Some(thread), pid }
    }

    fn frame(&self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap().to_be_bytes();
        (&self.stream).write_all(&[&length, frame].concat()).unwrap();
    }

    fn ipv4(&self, to: Ipv4Addr, protocol: u8, payload: &[u8]) {
        self.frame(&ethernet(self.guest.mac, 0x0800, &ipv4(self.guest.address, to, protocol, payload)));
    }

    /// UDP with its checksum left out, which passt takes.
    fn udp(&self, to: Ipv4Addr, port: u16, text: &str) {
        self.ipv4(to, 17, &udp(4000, port, text.as_bytes()));
    }

    fn expect<T>(&self, what: &str, pick: impl Fn(&[u8]) -> Option<T>) -> T {
        loop {
            let mut length = [0; 4];
            (&self.stream).read_exact(&mut length).unwrap_or_else(|e| panic!("the guest waited in vain for {what}: {e}"));
            let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
            (&self.stream).read_exact(&mut frame).unwrap();
            if let Some(found) = pick(&frame) {
                return found;
            }
        }
    }

    /// Asks for the gateway again and again, as a kernel does: QEMU connects each of its two streams in a thread
    /// of its own, and what arrives on the first before the second is connected is lost.
    fn asks_until_answered(&self) {
        let answered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let deadline = Instant::now() + PATIENCE;
                while !answered.load(Ordering::Relaxed) && Instant::now() < deadline {
                    self.frame(&arp_request(self.guest.mac, self.guest.address, pool().gateway()));
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            self.expect("the gateway's address", is_arp_reply);
            answered.store(true, Ordering::Relaxed);
        });
    }

    fn stop(&mut self) -> Health {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the relay panicked")
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// A namespace behind an uplink without a default route, and a server there that answers once per call.
fn world() -> (Elsewhere, UdpSocket) {
    let there = Elsewhere::new();
    there.wire(("up0", "203.0.113.1/24"), ("up0", "203.0.113.2/24 169.254.169.254/32"));
    let server = there.run(|| UdpSocket::bind("0.0.0.0:7").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    (there, server)
}

fn heard(server: &UdpSocket) -> (std::net::SocketAddr, String) {
    let mut buffer = [0; 2000];
    let (len, from) = server.recv_from(&mut buffer).expect("the server waited in vain");
    server.send_to(format!("re: {}", String::from_utf8_lossy(&buffer[..len])).as_bytes(), from).unwrap();
    (from, String::from_utf8_lossy(&buffer[..len]).into_owned())
}

fn status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

#[test]
fn a_guest_reaches_a_server_and_passt_has_no_rights() {
    in_namespace(|| {
        let (_there, server) = world();
        let mut guest = Behind::start(Path::new("/dev/null"));
        guest.frame(&arp_request(guest.guest.mac, guest.guest.address, pool().gateway()));
        let mac = guest.expect("the gateway's address", |frame| is_arp_reply(frame).map(|()| frame[22..28].to_vec()));
        assert_eq!(mac, GATEWAY_MAC.0);
        guest.udp(SERVER, 7, "hello");
        let (from, text) = heard(&server);
        assert_eq!((from.ip().to_string().as_str(), text.as_str()), ("203.0.113.1", "hello"));
        assert_eq!(guest.expect("the answer", read_udp).2, "re: hello");
        let status = status(guest.pid);
        for line in ["Uid:\t1900000123\t1900000123\t1900000123\t1900000123", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "no {line:?} in {status}");
        }
        assert_eq!(guest.stop(), Health::Up);
        assert!(!Path::new(&format!("/proc/{}", guest.pid)).exists(), "passt outlived its owner");
    });
}

#[test]
fn a_guest_reaches_neither_the_host_nor_its_loopback() {
    in_namespace(|| {
        let (_there, server) = world();
        ip("route add 169.254.169.254/32 via 203.0.113.2");
        let guest = Behind::start(Path::new("/dev/null"));
        let host = UdpSocket::bind("0.0.0.0:7").unwrap();
        let web = TcpListener::bind("0.0.0.0:7").unwrap();
        let own = guest.guest.address;
        for to in [[127, 0, 0, 1], [127, 9, 9, 9], [0, 0, 0, 0], [203, 0, 113, 1], [10, 9, 0, 1], [169, 254, 169, 254], [224, 0, 0, 1]] {
            let to = Ipv4Addr::from(to);
            guest.udp(to, 7, "let me in");
            guest.ipv4(to, 6, &tcp_syn(own, to, 7));
            // And as somebody else, whose packets might be judged otherwise.
            for from in [Ipv4Addr::LOCALHOST, SERVER, pool().gateway()] {
                guest.frame(&ethernet(guest.guest.mac, 0x0800, &ipv4(from, to, 17, &udp(4000, 7, b"let me in"))));
            }
        }
        guest.udp(SERVER, 7, "marker");
        assert_eq!(heard(&server).1, "marker");
        guest.expect("the answer", read_udp);
        host.set_nonblocking(true).unwrap();
        web.set_nonblocking(true).unwrap();
        assert!(host.recv(&mut [0; 10]).is_err(), "a packet reached the host");
        assert!(web.accept().is_err(), "a connection reached the host");
        // An address the host gets later is closed soon after.
        ip("addr add 198.51.100.7/32 dev lo");
        let deadline = Instant::now() + PATIENCE;
        loop {
            guest.udp(Ipv4Addr::new(198, 51, 100, 7), 7, "new address");
            guest.udp(SERVER, 7, "again");
            heard(&server);
            guest.expect("the answer", read_udp);
            if host.recv(&mut [0; 20]).is_err() {
                break;
            }
            assert!(Instant::now() < deadline, "a new address of the host stays open");
        }
        ip("addr del 198.51.100.7/32 dev lo");
    });
}

#[test]
fn names_are_asked_of_the_hosts_servers_even_on_its_loopback() {
    in_namespace(|| {
        let (_there, _server) = world();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("resolv.conf"), "nameserver 127.0.0.53\n").unwrap();
        let upstream = UdpSocket::bind("127.0.0.53:53").unwrap();
        upstream.set_read_timeout(Some(PATIENCE)).unwrap();
        let guest = Behind::start(&dir.path().join("resolv.conf"));
        let query = [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x04name\x00", &[0, 1, 0, 1]].concat();
        for size in [100, 3000] {
            guest.ipv4(pool().gateway(), 17, &udp(4000, 53, &query));
            let mut buffer = [0; 500];
            let (len, from) = upstream.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[2..len], &query[2..]);
            let mut reply = buffer[..len].to_vec();
            reply[2] |= 0x80;
            reply.resize(size, 0);
            upstream.send_to(&reply, from).unwrap();
            let (from, port, message) = guest.expect("the answer", |frame| {
                let (from, port, _) = read_udp(frame)?;
                Some((from, port, frame[42..].to_vec()))
            });
            assert_eq!((from, port, &message[..2]), (pool().gateway(), 53, &[0, 9][..]));
            // What does not fit a packet comes back as "truncated".
            assert_eq!((message.len(), message[2] & 2), if size == 100 { (100, 0) } else { (query.len(), 2) });
        }
    });
}

#[test]
fn it_works_on_a_host_without_any_network() {
    in_namespace(|| {
        let guest = Behind::start(Path::new("/dev/null"));
        guest.frame(&arp_request(guest.guest.mac, guest.guest.address, pool().gateway()));
        guest.expect("the gateway's address", is_arp_reply);
    });
}

#[test]
fn an_ordinary_user_can_have_one() {
    in_namespace(|| {
        let (_there, server) = world();
        std::thread::scope(|scope| {
            let unprivileged = scope.spawn(|| {
                drop_capabilities();
                let (guest, spec) = spec_for("vm-a", Path::new("/dev/null"));
                let (net, fd) = user::start(&UserSpec { run_as: None, ..spec }).unwrap();
                let guest = Behind::hold(guest, net, UnixStream::from(fd));
                guest.udp(SERVER, 7, "from nobody");
                assert_eq!(heard(&server).1, "from nobody");
                assert_eq!(guest.expect("the answer", read_udp).2, "re: from nobody");
                assert!(status(guest.pid).contains("Uid:\t65534\t65534\t65534\t65534"));
            });
            unprivileged.join().expect("an ordinary user's network went wrong");
        });
    });
}

#[test]
fn a_flood_and_a_guest_that_does_not_read_stay_within_bounds() {
    in_namespace(|| {
        let (_there, server) = world();
        let mut guest = Behind::start(Path::new("/dev/null"));
        guest.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // Empty frames, dropped frames, huge frames: all are taken in, none is kept.
        for n in 0..2000 {
            guest.frame(&vec![0xff; [0, 13, 1514, 65_000][n % 4]]);
        }
        guest.udp(SERVER, 7, "after the flood");
        assert_eq!(heard(&server).1, "after the flood");
        guest.expect("the answer", read_udp);
        // A length that no frame has ends the conversation, and nothing else.
        (&guest.stream).write_all(&[0xff; 64]).unwrap();
        let end = (&guest.stream).read(&mut [0; 10]);
        let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(matches!(&end, Ok(0)) || end.as_ref().is_err_and(closed), "{end:?}");
        assert_eq!(guest.stop(), Health::NoGuest);
    });
}

#[test]
fn when_passt_is_gone_the_guest_goes_on_without_a_world() {
    in_namespace(|| {
        let (_there, _server) = world();
        let mut guest = Behind::start(Path::new("/dev/null"));
        let pid = rustix::process::Pid::from_raw(i32::try_from(guest.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        guest.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        for _ in 0..1000 {
            guest.frame(&[0; 1514]);
        }
        let deadline = Instant::now() + PATIENCE;
        while !status(guest.pid).contains("State:\tZ") {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        guest.udp(SERVER, 7, "anybody?");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(guest.stop(), Health::NoWorld);
    });
}

/// Not a test of its own: run by the next one as a process that holds a network until it is killed.
#[test]
fn holder() {
    if std::env::args().any(|arg| arg == "hold-until-killed") {
        in_namespace(|| {
            let (_, spec) = spec_for("vm-a", Path::new("/dev/null"));
            let (net, _fd) = user::start(&spec).unwrap();
            println!("passt is {}", net.pid());
            std::thread::sleep(PATIENCE * 3);
        });
    }
}

#[test]
fn passt_ends_when_its_holder_is_killed() {
    #[expect(clippy::disallowed_methods, reason = "this very program, to be killed")]
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["holder", "--exact", "--nocapture", "--test-threads=1", "--skip", "hold-until-killed"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = String::new();
    let mut stdout = holder.stdout.take().unwrap();
    let pid: u32 = loop {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("the holder ended early");
        lines.push(byte[0].into());
        if let Some(pid) = lines.strip_suffix('\n').and_then(|l| l.rsplit_once("passt is ")).map(|(_, pid)| pid) {
            break pid.parse().unwrap();
        }
    };
    let alive = || std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|s| !s.contains("State:\tZ"));
    assert!(alive());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while alive() {
        assert!(Instant::now() < deadline, "passt outlived its holder");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn qemu_takes_the_descriptor_and_carries_frames_both_ways() {
    in_namespace(|| {
        let (_there, server) = world();
        let (guest, spec) = spec_for("vm-a", Path::new("/dev/null"));
        let (net, fd) = user::start(&spec).unwrap();
        // A QEMU without a machine joins our end to another stream, at which the test plays the guest.
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut qemu = qemu_between(&fd, &theirs);
        drop((fd, theirs));
        let behind = Behind::hold(guest, net, ours);
        behind.asks_until_answered();
        behind.udp(SERVER, 7, "through QEMU");
        assert_eq!(heard(&server).1, "through QEMU");
        assert_eq!(behind.expect("the answer", read_udp).2, "re: through QEMU");
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    });
}

fn qemu_between(one: &OwnedFd, other: &UnixStream) -> std::process::Child {
    let (a, b) = (one.as_raw_fd(), other.as_raw_fd());
    #[expect(clippy::disallowed_methods, reason = "a child that stays, with descriptors by number")]
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-M", "none", "-nodefaults", "-display", "none", "-nographic", "-monitor", "none"]);
    command
        .arg("-netdev")
        .arg(format!("stream,id=n0,server=off,addr.type=fd,addr.str={a}"))
        .args(["-netdev", "hubport,id=h0,hubid=0,netdev=n0"]);
    command
        .arg("-netdev")
        .arg(format!("stream,id=n1,server=off,addr.type=fd,addr.str={b}"))
        .args(["-netdev", "hubport,id=h1,hubid=0,netdev=n1"]);
    command.stdin(Stdio::null());
    // SAFETY: between fork and exec only `fcntl` runs, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for fd in [a, b] {
                if libc::fcntl(fd, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn().expect("the tests need qemu-system-x86")
}
