//! Private network namespaces, and a guest played by the test through its TAP's descriptor.
//!
//! Every world is a thread in a namespace of its own; it and all that is in it vanish when the thread
//! ends. The host's namespace is never entered.
#![allow(unsafe_code, dead_code)] // `unshare` of a single thread; each test file uses another part

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smolvm_host::effect::permitted;
use smolvm_host::net::links;
use smolvm_host::net::netlink::NetlinkError;
use smolvm_host::net::nft::{self, NftError};
use smolvm_host::net::sysctl::{self, Switch, SysctlError};
use smolvm_host::net::tap::{self, TapError, TapSpec};
use smolvm_host::proc::tool::Tool;
use smolvm_model::effect::Effect;
use smolvm_model::name::{InstallId, MacAddr, Mark, TapName};
use smolvm_model::network::{AddressPool, Base, ElementKey, GATEWAY_MAC, Guest, IfName};
use testkit::{LeakOracle, Netns, Scope};

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn enter_private_namespace() {
    // SAFETY: `unshare` takes a number; only the calling thread's namespaces change.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "network tests need root (or CAP_SYS_ADMIN): {}", io::Error::last_os_error());
    ip("link set lo up");
}

/// Makes this thread, and what it runs, an ordinary user without capabilities.
pub(crate) fn drop_capabilities() {
    // SAFETY: the raw calls change the calling thread alone (the library's would change all), and take numbers.
    unsafe {
        libc::syscall(libc::SYS_setresgid, 65_534, 65_534, 65_534);
        assert_eq!(libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534), 0);
    }
}

/// Runs a test on a thread in a new network namespace; a panic there is a panic here. Afterwards the test's own
/// things are taken away by `ip` and `nft`, smolvm's by smolvm, and the leak oracle must find the namespace as it was.
pub(crate) fn in_namespace(test: impl FnOnce() + Send) {
    let home = tempfile::tempdir().unwrap();
    let netns = Netns::new().expect("network tests need root (or CAP_SYS_ADMIN)");
    let oracle = LeakOracle::snapshot(Scope::home(home.path()).in_netns(&netns).install(install().as_str()));
    netns.enter(|| {
        test();
        remove_strangers();
        remove_ours();
    });
    oracle.assert_clean();
}

fn remove_strangers() {
    let ours = |name: &str| name == "lo" || name.starts_with("svt");
    let links = ip("-o link");
    let names = links.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(str::trim);
    for name in names.filter(|name| !ours(name)) {
        // One end of a pair takes the other with it, and one whose peer's namespace is ending may be gone by now.
        let _ = Tool::new("ip").args(["link", "del", name]).run();
    }
    let tables = Tool::new("nft").args(["list", "tables"]).run_ok().expect("the tests need nftables").text();
    for table in tables.lines().filter(|table| !table.starts_with("table inet smolvm_")) {
        Tool::new("nft").arg(format!("delete {table}")).run_ok().unwrap();
    }
    for (setting, value) in [("conf/all/rp_filter", "0"), ("ip_forward", "0")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap();
    }
}

/// As a cleanup of every installation would: by mark, and by the name of the table.
fn remove_ours() {
    let installs: BTreeSet<InstallId> =
        nft::list_tables().unwrap().into_iter().chain([install(), InstallId::from_digest([7; 32])]).collect();
    for install in &installs {
        let taps: Vec<_> = tap::find_marked(install).unwrap().into_iter().map(|link| (link.name, link.mark)).collect();
        let outcomes = delete_taps(&taps).unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, links::Outcome::Released)), "{outcomes:?}");
        drop_table(install).unwrap();
    }
}

/// Another namespace, with a thread that works in it.
pub(crate) struct Elsewhere {
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    path: String,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    pub(crate) fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, path) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter_private_namespace();
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), rustix::thread::gettid().as_raw_nonzero());
            tell.send(path).unwrap();
            for job in todo {
                job();
            }
        });
        Self { jobs: Some(jobs), path: path.recv().unwrap(), thread: Some(thread) }
    }

    /// Runs something in that namespace and waits for its result.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, result) = mpsc::channel();
        self.jobs.as_ref().unwrap().send(Box::new(move || drop(tell.send(job())))).unwrap();
        result.recv().expect("the job panicked")
    }

    /// Connects this namespace and that one by a pair of interfaces.
    pub(crate) fn wire(&self, here: (&'static str, &'static str), there: (&'static str, &'static str)) {
        ip(&format!("link add {} type veth peer name {} netns {}", here.0, there.0, self.path));
        for address in here.1.split_whitespace() {
            ip(&format!("addr add {address} dev {}", here.0));
        }
        ip(&format!("link set {} up", here.0));
        self.run(move || {
            for address in there.1.split_whitespace() {
                ip(&format!("addr add {address} dev {}", there.0));
            }
            ip(&format!("link set {} up", there.0));
        });
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip` and gives what it printed.
pub(crate) fn ip(words: &str) -> String {
    Tool::new("ip").args(words.split_whitespace()).run_ok().unwrap_or_else(|e| panic!("ip {words}: {e}")).text()
}

/// All of `nft list ruleset`.
pub(crate) fn ruleset() -> String {
    Tool::new("nft").args(["list", "ruleset"]).run_ok().expect("the tests need nftables").text()
}

pub(crate) fn install() -> InstallId {
    "0123456789".parse().unwrap()
}

pub(crate) fn base() -> Base {
    Base { install: install(), pool: pool() }
}

pub(crate) fn pool() -> AddressPool {
    "10.9.0.0/18".parse().unwrap()
}

pub(crate) fn guest(name: &str, n: u8) -> Guest {
    let mark = Mark::new(install(), name.parse().unwrap());
    Guest {
        tap: TapName::derive(&mark.install, &mark.sandbox),
        mark,
        mac: MacAddr::local([0, 0, 0, 0, n]),
        address: pool().nth(n.into()).unwrap(),
    }
}

pub(crate) fn spec(guest: &Guest) -> TapSpec {
    TapSpec {
        name: guest.tap.clone(),
        mark: guest.mark.clone(),
        owner_uid: 1_900_000_000,
        gateway: pool().gateway(),
        guest_address: guest.address,
        guest_mac: guest.mac,
    }
}

/// A guest at the other end of a TAP: whoever holds the descriptor is the machine on the wire.
pub(crate) struct Played {
    pub(crate) guest: Guest,
    tap: OwnedFd,
}

/// `struct virtio_net_hdr` without offloads.
const VNET: usize = 10;

impl Played {
    pub(crate) fn new(name: &str, n: u8) -> Self {
        let guest = guest(name, n);
        let tap = make_tap(&spec(&guest)).unwrap();
        Self { guest, tap }
    }

    pub(crate) fn hold(guest: Guest, tap: OwnedFd) -> Self {
        Self { guest, tap }
    }

    /// Sends a whole Ethernet frame.
    pub(crate) fn frame(&self, frame: &[u8]) {
        let mut bytes = vec![0; VNET];
        bytes.extend_from_slice(frame);
        assert_eq!(rustix::io::write(&self.tap, &bytes).unwrap(), bytes.len());
    }

    /// Sends an IPv4 packet with the guest's own addresses.
    pub(crate) fn ipv4(&self, to: Ipv4Addr, protocol: u8, payload: &[u8]) {
        self.frame(&ethernet(self.guest.mac, 0x0800, &ipv4(self.guest.address, to, protocol, payload)));
    }

    pub(crate) fn udp(&self, to: Ipv4Addr, port: u16, text: &str) {
        self.ipv4(to, 17, &udp(4000, port, text.as_bytes()));
    }

    /// The next frame for the guest that `pick` takes, others dropped; fails when the deadline passes.
    pub(crate) fn expect<T>(&self, what: &str, pick: impl Fn(&[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let frame = self.next_frame(deadline).unwrap_or_else(|| panic!("the guest waited in vain for {what}"));
            if let Some(found) = pick(&frame) {
                return found;
            }
        }
    }

    fn next_frame(&self, deadline: Instant) -> Option<Vec<u8>> {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        if poll(&mut [PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN)], Some(&left)).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; 70_000];
        let len = rustix::io::read(&self.tap, &mut bytes[..]).unwrap();
        Some(bytes[VNET..len].to_vec())
    }
}

pub(crate) fn ethernet(from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&GATEWAY_MAC.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

pub(crate) fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap();
    let mut head = vec![0x45, 0];
    head.extend(len.to_be_bytes());
    head.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    head.extend(from.octets());
    head.extend(to.octets());
    let sum = checksum(&head);
    head[10..12].copy_from_slice(&sum.to_be_bytes());
    head.extend_from_slice(payload);
    head
}

pub(crate) fn udp(from: u16, to: u16, text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + text.len()).unwrap();
    // A zero checksum means none was made, which UDP over IPv4 allows.
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], text].concat()
}

/// A TCP segment that opens a connection.
pub(crate) fn tcp_syn(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&4001_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 2;
    segment[14..16].copy_from_slice(&64_000_u16.to_be_bytes());
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6, 0, 20], &segment].concat();
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

pub(crate) fn icmp_echo(text: &[u8]) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 1, 0, 1];
    message.extend_from_slice(text);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub(crate) fn arp_request(mac: MacAddr, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac.0, &from.octets(), &[0; 6], &to.octets()].concat();
    let mut frame = ethernet(mac, 0x0806, &body);
    frame[..6].fill(0xff);
    frame
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// The payload of a UDP packet and where it comes from, if the frame is one.
pub(crate) fn read_udp(frame: &[u8]) -> Option<(Ipv4Addr, u16, String)> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0] && frame[23] == 17)?;
    let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
    let port = u16::from_be_bytes([packet[20], packet[21]]);
    let len = usize::from(u16::from_be_bytes([packet[24], packet[25]]));
    Some((from, port, String::from_utf8_lossy(&packet[28..20 + len]).into_owned()))
}

/// Whether the frame is this kind of ARP, ICMP or TCP answer.
pub(crate) fn is_arp_reply(frame: &[u8]) -> Option<()> {
    (frame[12..14] == [8, 6] && frame[20..22] == [0, 2]).then_some(())
}

pub(crate) fn is_echo_reply(frame: &[u8]) -> Option<()> {
    (frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0).then_some(())
}

pub(crate) fn is_syn_ack(frame: &[u8]) -> Option<()> {
    (frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] & 0x12 == 0x12).then_some(())
}

pub(crate) fn make_tap(spec: &TapSpec) -> Result<OwnedFd, TapError> {
    permitted(Effect::Tap, |permit| tap::make(permit, spec)).unwrap()
}

pub(crate) fn delete_taps(targets: &[(TapName, Mark)]) -> Result<Vec<links::Outcome>, NetlinkError> {
    permitted(Effect::RemoveTaps, |permit| links::delete_all(permit, targets)).unwrap()
}

pub(crate) fn apply(text: &str) -> Result<(), NftError> {
    permitted(Effect::Filter, |permit| nft::apply(permit, text)).unwrap()
}

pub(crate) fn remove_elements(install: &InstallId, keys: &[ElementKey]) -> Result<nft::Removal, NftError> {
    permitted(Effect::RemoveElements, |permit| nft::remove(permit, install, keys)).unwrap()
}

pub(crate) fn drop_table(install: &InstallId) -> Result<(), NftError> {
    permitted(Effect::DropTable, |permit| nft::drop_table(permit, install)).unwrap()
}

pub(crate) fn set_forwarding(interface: &IfName, to: Switch) -> Result<(), SysctlError> {
    permitted(Effect::Forwarding, |permit| sysctl::set_forwarding(permit, interface, to)).unwrap()
}
