//! Per-interface IPv4 settings beneath `/proc/sys/net`.
//!
//! An [`IfName`] or a [`TapName`] cannot hold a slash, `..`, `all` or `default`, so a path built from
//! one stays inside that interface's own directory.

use crate::effect::Permit;
use std::io;
use std::path::{Path, PathBuf};

use smolvm_model::name::TapName;
use smolvm_model::network::IfName;

/// A setting that is a yes or a no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Zero.
    Off,
    /// One; the kernel counts anything but zero as yes.
    On,
}

/// A setting that was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The interface (or the setting) does not exist.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file beneath `/proc/sys`.
        path: PathBuf,
    },
    /// Reading failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file beneath `/proc/sys`.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Writing failed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file beneath `/proc/sys`.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It holds something that is no number.
    #[error("{} holds no number", path.display())]
    NotANumber {
        /// The file beneath `/proc/sys`.
        path: PathBuf,
    },
}

const IPV4: &str = "/proc/sys/net/ipv4";
const IPV6: &str = "/proc/sys/net/ipv6";

/// What a TAP's directory in `conf` gets. Written one by one, because the defaults new interfaces
/// start with are the administrator's.
const TAP_SETTINGS: [(&str, &str); 11] = [
    // What comes out of a guest may go on, without `ip_forward` for the whole host.
    ("forwarding", "1"),
    // Strict: a source that is not routed back through this TAP is dropped.
    ("rp_filter", "1"),
    // Answers only for the address on the TAP itself, and only to the guest's own: other senders do
    // not enter the neighbour table, which all interfaces of the host share.
    ("arp_ignore", "1"),
    ("arp_filter", "1"),
    ("arp_accept", "0"),
    ("proxy_arp", "0"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("accept_local", "0"),
    // Packets from the guest to 127.0.0.0/8 stay martians.
    ("route_localnet", "0"),
];

/// Whether packets that arrive on this interface may be sent on.
pub fn forwarding(interface: &IfName) -> Result<Switch, SysctlError> {
    read_switch(&conf(interface.as_str(), "forwarding"))
}

/// Lets packets that arrive on this interface be sent on, or not.
pub fn set_forwarding(_permit: &Permit, interface: &IfName, to: Switch) -> Result<(), SysctlError> {
    let value = match to {
        Switch::Off => "0",
        Switch::On => "1",
    };
    write(&conf(interface.as_str(), "forwarding"), value)
}

/// Whether the whole host forwards. Only read: smolvm never changes it.
pub fn ip_forward() -> Result<Switch, SysctlError> {
    read_switch(&Path::new(IPV4).join("ip_forward"))
}

/// Brings a TAP into the shape the rules count on.
pub(super) fn harden_tap(tap: &TapName) -> Result<(), SysctlError> {
    // First, so that no link-local address and no multicast listener ever appears. A kernel without
    // IPv6 has no such file and needs none.
    match write(&Path::new(IPV6).join("conf").join(tap.as_str()).join("disable_ipv6"), "1") {
        Ok(()) | Err(SysctlError::Missing { .. }) => {}
        Err(e) => return Err(e),
    }
    TAP_SETTINGS.iter().try_for_each(|(setting, value)| write(&conf(tap.as_str(), setting), value))
}

fn conf(interface: &str, setting: &str) -> PathBuf {
    Path::new(IPV4).join("conf").join(interface).join(setting)
}

fn read_switch(path: &Path) -> Result<Switch, SysctlError> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SysctlError::Missing { path: path.to_owned() },
        _ => SysctlError::Read { path: path.to_owned(), source },
    })?;
    match text.trim().parse::<i64>() {
        Ok(0) => Ok(Switch::Off),
        Ok(_) => Ok(Switch::On),
        Err(_) => Err(SysctlError::NotANumber { path: path.to_owned() }),
    }
}

fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    std::fs::write(path, value).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SysctlError::Missing { path: path.to_owned() },
        _ => SysctlError::Write { path: path.to_owned(), source },
    })
}
