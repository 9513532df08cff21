//! `lo` and `eth0`, over rtnetlink.

mod netlink;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
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

/// An interface that is up, and has neither its address nor its Ethernet address yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raised {
    index: u32,
}

/// Waits until the driver has made the interface, and raises it: without an address nothing is heard on it.
pub(super) fn raise() -> Result<Raised, BootFailure> {
    let socket = route_socket()?;
    let index = index_of(&socket, DEVICE)?;
    let mut batch = Batch::new();
    batch.without_ipv6(index);
    batch.set_link(Link { index, mac: None, up: true });
    talk(&socket, batch).map_err(failed(STEP, DEVICE))?;
    await_carrier()?;
    Ok(Raised { index })
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

/// Sets up `eth0`, which may be up already; gives the address as the kernel says that it now has it.
pub(super) fn configure(config: &NetworkConfig, raised: Option<Raised>) -> Result<String, BootFailure> {
    let parsed = parse(config)?;
    let socket = route_socket()?;
    let mut batch = Batch::new();
    let index = if let Some(Raised { index }) = raised {
        index
    } else {
        let index = index_of(&socket, DEVICE)?;
        batch.without_ipv6(index);
        index
    };
    batch.set_link(Link { index, mac: Some(parsed.mac), up: true });
    batch.add_address(index, parsed.address, parsed.prefix);
    batch.add_default_route(index, parsed.gateway, parsed.address);
    let told = talk(&socket, batch).map_err(failed(STEP, DEVICE))?;
    match told {
        Some((there, address)) if there == index => Ok(address.to_string()),
        Some(_) | None => Err(BootFailure { step: STEP, message: "eth0 has no address".to_owned() }),
    }
}

/// Gives `eth0`, which is up, other addresses than those of `before`; connections over them end.
pub(super) fn replace(config: &NetworkConfig, before: Option<&NetworkConfig>) -> Result<String, BootFailure> {
    let socket = route_socket()?;
    let index = index_of(&socket, DEVICE)?;
    if let Some(before) = before.map(parse).transpose()? {
        let mut batch = Batch::new();
        batch.remove_address(index, before.address, before.prefix);
        match talk(&socket, batch) {
            // A user of the guest may have taken it away.
            Ok(_) | Err(Errno::ADDRNOTAVAIL) => {}
            Err(errno) => return Err(failed(STEP, DEVICE)(errno)),
        }
    }
    configure(config, Some(Raised { index }))
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

/// Sends a batch and waits for every answer. Gives the first refusal, or the last address that was told of.
fn talk(socket: &OwnedFd, batch: Batch) -> Result<Option<(u32, Ipv4Addr)>, Errno> {
    let (bytes, mut waiting) = batch.finish();
    send(socket, &bytes, SendFlags::empty())?;
    let mut buffer = [0; 8192];
    let (mut refusal, mut told) = (None, None);
    while waiting > 0 {
        let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for reply in netlink::replies(&buffer[..count]) {
            match reply {
                Reply::Answer(code) => {
                    waiting -= 1;
                    if code != 0 && refusal.is_none() {
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
