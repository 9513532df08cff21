//! `lo` and `eth0`, over rtnetlink.

mod netlink;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};
use smolvm_proto::NetworkConfig;

use super::failed;
use crate::serve::BootFailure;
use netlink::{Batch, Link, Reply};

const STEP: &str = "network";

/// The one interface besides the loopback.
const DEVICE: &str = "eth0";
/// Where the kernel says whether it can send.
const STATE: &str = "/sys/class/net/eth0/operstate";

/// How long the driver may take to make the interface.
const PATIENCE: Duration = Duration::from_secs(5);

/// A config in the kernel's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parsed {
    mac: [u8; 6],
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
}

/// Brings up the loopback; a guest without it would surprise every daemon.
pub(super) fn loopback() -> Result<(), BootFailure> {
    let mut batch = Batch::new();
    // The first interface of every network namespace.
    batch.set_link(Link { index: 1, mac: None, up: true });
    talk(&route_socket()?, batch).map(drop).map_err(failed(STEP, "lo"))
}

/// The interface, and the line to the kernel over which it is changed. It stays open, so that a copy need not open it.
pub(super) struct Device {
    socket: OwnedFd,
    index: u32,
    is_up: bool,
}

impl Device {
    /// Waits until the driver has made it.
    pub(super) fn find() -> Result<Self, BootFailure> {
        let socket = route_socket()?;
        let index = index_of(&socket, DEVICE)?;
        // From then on it hears nobody but the kernel, whoever else of the guest knows its number.
        connect(&socket, &SocketAddrNetlink::new(0, 0)).map_err(failed(STEP, "connect"))?;
        Ok(Self { socket, index, is_up: false })
    }

    /// Raises it before it has an address of any kind: without one nothing is heard on it.
    pub(super) fn raise(&mut self) -> Result<(), BootFailure> {
        let mut batch = Batch::new();
        batch.without_ipv6(self.index);
        batch.set_link(Link { index: self.index, mac: None, up: true });
        talk(&self.socket, batch).map_err(failed(STEP, DEVICE))?;
        await_carrier()?;
        self.is_up = true;
        Ok(())
    }

    /// Gives it its addresses, for the first time; gives the address as the kernel says that it now has it.
    pub(super) fn configure(&mut self, config: &NetworkConfig) -> Result<String, BootFailure> {
        let mut batch = Batch::new();
        if !self.is_up {
            batch.without_ipv6(self.index);
        }
        self.add(&mut batch, parse(config)?);
        let told = talk(&self.socket, batch);
        self.has(told)
    }

    /// Gives it, which has those of `before`, others; connections over them end.
    ///
    /// A user of the guest may have taken its driver away and brought it back: then it is another interface. Or taken it down: then it has its
    /// addresses, but no route.
    pub(super) fn replace(&mut self, config: &NetworkConfig, before: Option<&NetworkConfig>) -> Result<String, BootFailure> {
        let (wanted, before) = (parse(config)?, before.map(parse).transpose()?);
        let told = match talk(&self.socket, self.change(wanted, before)) {
            Err(Errno::NODEV) => {
                *self = Self::find()?;
                talk(&self.socket, self.change(wanted, None))
            }
            Err(Errno::NETDOWN) => {
                self.is_up = false;
                talk(&self.socket, self.change(wanted, None))
            }
            told => told,
        };
        self.has(told)
    }

    fn change(&self, wanted: Parsed, before: Option<Parsed>) -> Batch {
        let mut batch = Batch::new();
        if let Some(before) = before {
            batch.remove_address(self.index, before.address, before.prefix);
        }
        self.add(&mut batch, wanted);
        batch
    }

    fn add(&self, batch: &mut Batch, addresses: Parsed) {
        let index = self.index;
        batch.set_link(Link { index, mac: Some(addresses.mac), up: !self.is_up });
        batch.add_address(index, addresses.address, addresses.prefix);
        batch.add_default_route(index, addresses.gateway, addresses.address);
    }

    /// What came of it: the address that it has.
    fn has(&mut self, told: Result<Option<(u32, Ipv4Addr)>, Errno>) -> Result<String, BootFailure> {
        let told = told.map_err(failed(STEP, DEVICE))?;
        self.is_up = true;
        match told {
            Some((there, address)) if there == self.index => Ok(address.to_string()),
            Some(_) | None => Err(BootFailure { step: STEP, message: "eth0 has no address".to_owned() }),
        }
    }
}

/// A thread of the kernel notes that there is a line, up to a second later.
fn await_carrier() -> Result<(), BootFailure> {
    let start = Instant::now();
    loop {
        match std::fs::read_to_string(STATE) {
            Ok(state) if state.trim_end() == "up" => return Ok(()),
            Ok(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Ok(state) => return Err(BootFailure { step: STEP, message: format!("eth0 is {}", state.trim_end()) }),
            Err(error) => return Err(BootFailure { step: STEP, message: format!("{STATE}: {error}") }),
        }
    }
}

fn parse(config: &NetworkConfig) -> Result<Parsed, BootFailure> {
    let bad = |field: &str, text: &str| BootFailure { step: STEP, message: format!("{text:?} is no {field}") };
    let mut mac = [0; 6];
    let mut parts = config.mac.split(':');
    for byte in &mut mac {
        let digits = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = digits.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(|| bad("mac", &config.mac))?;
    }
    if parts.next().is_some() {
        return Err(bad("mac", &config.mac));
    }
    if config.prefix > 32 {
        return Err(bad("prefix", &config.prefix.to_string()));
    }
    let ip = |field, text: &str| text.parse::<Ipv4Addr>().map_err(|_| bad(field, text));
    Ok(Parsed { mac, address: ip("address", &config.address)?, prefix: config.prefix, gateway: ip("gateway", &config.gateway)? })
}

/// Protocol 0 of this family is routing.
fn route_socket() -> Result<OwnedFd, BootFailure> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(failed(STEP, "socket"))
}

/// Waits for the interface: the device is found by a thread of the kernel.
fn index_of(socket: &OwnedFd, name: &str) -> Result<u32, BootFailure> {
    let start = Instant::now();
    loop {
        match rustix::net::netdevice::name_to_index(socket, name) {
            Err(Errno::NODEV) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_micros(200)),
            other => return other.map_err(failed(STEP, name)),
        }
    }
}

/// Sends a batch and waits for every answer, which come in the order of the requests. Gives the first refusal, or the last address that was
/// told of.
fn talk(socket: &OwnedFd, batch: Batch) -> Result<Option<(u32, Ipv4Addr)>, Errno> {
    let (bytes, count, may_be_gone) = batch.finish();
    let mut answers = 0;
    send(socket, &bytes, SendFlags::empty())?;
    let mut buffer = [0; 8192];
    let (mut refusal, mut told) = (None, None);
    while answers < count {
        let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for reply in netlink::replies(&buffer[..count]) {
            match reply {
                Reply::Answer(code) => {
                    // An address that is to be taken away may have been, by a user of the guest.
                    let is_gone = may_be_gone == Some(answers) && code == Errno::ADDRNOTAVAIL.raw_os_error();
                    answers += 1;
                    if code != 0 && !is_gone && refusal.is_none() {
                        refusal = Some(Errno::from_raw_os_error(code));
                    }
                }
                Reply::Address { index, address } => told = Some((index, address)),
                Reply::Else => {}
            }
        }
    }
    refusal.map_or(Ok(told), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_configs_are_taken() {
        let good = NetworkConfig {
            mac: "02:00:00:00:00:01".to_owned(),
            address: "10.0.0.2".to_owned(),
            prefix: 32,
            gateway: "10.0.0.1".to_owned(),
            dns: Vec::new(),
        };
        assert!(parse(&good).is_ok());
        assert!(parse(&NetworkConfig { mac: "02:00".to_owned(), ..good.clone() }).is_err());
        for mac in ["02:00:00:00:00:01:02", "02:00:00:00:00:+1", "2:0:0:0:0:1"] {
            assert!(parse(&NetworkConfig { mac: mac.to_owned(), ..good.clone() }).is_err(), "{mac}");
        }
        assert!(parse(&NetworkConfig { address: "10.0.0".to_owned(), ..good.clone() }).is_err());
        assert!(parse(&NetworkConfig { prefix: 33, ..good.clone() }).is_err());
        assert!(parse(&NetworkConfig { gateway: String::new(), ..good }).is_err());
    }
}
