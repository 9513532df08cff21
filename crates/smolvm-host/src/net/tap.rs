//! One TAP per sandbox: a wire between the host and one guest.
//!
//! ```text
//!   open ─► attach (gone when we die) ─► alias, group, MAC ─► owner, sysctls, address, up, neighbour, route ─► persist
//!           └───────────── a crash here leaves nothing ────────────────────────────────────────────┘   └─ a crash here leaves a marked device
//! ```
//!
//! Invariants: a device that outlives the process carries its mark; a device with another mark, or none, is
//! never touched; a device is always in its installation's link group, so the rules see it from its first packet.

use crate::effect::Permit;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use smolvm_model::name::{InstallId, MacAddr, Mark, TapName};
use smolvm_model::network::{GATEWAY_MAC, LinkGroup};

use super::netlink::{Link, LinkChange, Netlink, NetlinkError, Up};
use super::sysctl::{self, SysctlError};
use super::tun::{self, Attach};

/// What a TAP shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapSpec {
    /// Its name.
    pub name: TapName,
    /// Whose it is: its alias.
    pub mark: Mark,
    /// The uid that may attach to it: the sandbox's hypervisor's.
    pub owner_uid: u32,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
    /// The guest's address behind it.
    pub guest_address: Ipv4Addr,
    /// The guest's Ethernet address.
    pub guest_mac: MacAddr,
}

/// Whose a network device is, by its alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkOwner {
    /// A sandbox's, of this or another installation.
    Sandbox(Mark),
    /// It has no alias.
    Unmarked,
    /// It has an alias that is no mark, or is no TAP.
    Stranger {
        /// The alias, or the kind of device.
        found: String,
    },
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TAP driver, or this container no node for it.
    #[error("/dev/net/tun cannot be opened")]
    NoDriver {
        /// The kernel's reason.
        source: io::Error,
    },
    /// This process may not make network devices.
    #[error("making a TAP needs CAP_NET_ADMIN")]
    NoRights,
    /// A device of this name exists and is not this sandbox's.
    #[error("the network device {name} exists and is not this sandbox's: {found}")]
    Foreign {
        /// The device.
        name: TapName,
        /// Whose it is.
        found: LinkOwner,
    },
    /// The sandbox's TAP exists and something is attached to it.
    #[error("the network device {name} is in use")]
    InUse {
        /// The device.
        name: TapName,
    },
    /// Another route leads to the guest's address.
    #[error("a route to {address} exists already")]
    RouteTaken {
        /// The guest's address.
        address: Ipv4Addr,
    },
    /// A call on the TAP failed.
    #[error("cannot {action} the network device {name}")]
    Tun {
        /// What was to be done.
        action: &'static str,
        /// The device.
        name: TapName,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The routing socket failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting failed.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// A TAP that carries the mark of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedLink {
    /// Its name.
    pub name: TapName,
    /// Its mark.
    pub mark: Mark,
    /// The kernel's number for it.
    pub index: u32,
}

impl LinkOwner {
    /// Judges a device.
    pub fn of(link: &Link) -> Self {
        match (&link.alias, link.kind.as_deref()) {
            (_, kind) if kind != Some("tun") => Self::Stranger { found: kind.unwrap_or("hardware").to_owned() },
            (None, _) => Self::Unmarked,
            (Some(alias), _) => alias.parse().map_or_else(|_| Self::Stranger { found: alias.clone() }, Self::Sandbox),
        }
    }
}

impl std::fmt::Display for LinkOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sandbox(mark) => write!(f, "{mark}"),
            Self::Unmarked => f.write_str("no mark"),
            Self::Stranger { found } => write!(f, "{found:?}"),
        }
    }
}

/// Makes the TAP and attaches to it; the descriptor is what the hypervisor gets.
///
/// One of the same mark that nobody is attached to is made anew, so that it is in every respect what `spec` says.
pub fn make(_permit: &Permit, spec: &TapSpec) -> Result<OwnedFd, TapError> {
    let mut netlink = Netlink::open()?;
    if let Some(link) = netlink.link_named(spec.name.as_str())? {
        clear(&mut netlink, spec, &link)?;
    }
    let tun = |action| move |source| TapError::Tun { action, name: spec.name.clone(), source };
    let tap = tun::attach(open_node()?, spec.name.as_str(), Attach::New).map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::PERM) => TapError::NoRights,
        _ => tun("create")(source),
    })?;
    // From here on the device exists, but only as long as `tap` is open.
    let link = netlink.link_named(spec.name.as_str())?.ok_or_else(|| tun("find")(io::ErrorKind::NotFound.into()))?;
    let mark = spec.mark.to_string();
    let group = LinkGroup::of(&spec.mark.install).number();
    netlink.change_link(link.index, LinkChange { alias: Some(&mark), group: Some(group), address: Some(GATEWAY_MAC.0), up: None })?;
    tun::set_owner(&tap, spec.owner_uid).map_err(tun("set the owner of"))?;
    sysctl::harden_tap(&spec.name)?;
    netlink.add_address(link.index, spec.gateway, 32)?;
    netlink.change_link(link.index, LinkChange { up: Some(Up), ..LinkChange::default() })?;
    netlink.add_neighbour(link.index, spec.guest_address, spec.guest_mac)?;
    netlink.add_host_route(link.index, spec.guest_address, spec.gateway).map_err(|e| match e.errno() {
        Some(Errno::EXIST) => TapError::RouteTaken { address: spec.guest_address },
        _ => e.into(),
    })?;
    tun::persist(&tap).map_err(tun("keep"))?;
    Ok(tap)
}

/// Removes a TAP of the same mark that is not in use.
fn clear(netlink: &mut Netlink, spec: &TapSpec, link: &Link) -> Result<(), TapError> {
    let found = LinkOwner::of(link);
    if found != LinkOwner::Sandbox(spec.mark.clone()) {
        return Err(TapError::Foreign { name: spec.name.clone(), found });
    }
    match tun::attach(open_node()?, spec.name.as_str(), Attach::Existing).map_err(|e| Errno::from_io_error(&e)) {
        Err(Some(Errno::BUSY)) => return Err(TapError::InUse { name: spec.name.clone() }),
        Err(Some(Errno::PERM)) => return Err(TapError::NoRights),
        // Attached, or of another shape (flags) than ours: either way nobody else is attached.
        Ok(_) | Err(_) => {}
    }
    match netlink.delete_link(link.index) {
        Err(e) if e.errno() != Some(Errno::NODEV) => Err(e.into()),
        _ => Ok(()),
    }
}

/// All TAPs that carry the installation's mark.
pub fn find_marked(install: &InstallId) -> Result<Vec<MarkedLink>, NetlinkError> {
    let ours = |link: Link| match (LinkOwner::of(&link), link.name.parse()) {
        (LinkOwner::Sandbox(mark), Ok(name)) if mark.install == *install => Some(MarkedLink { name, mark, index: link.index }),
        _ => None,
    };
    Ok(Netlink::open()?.links()?.into_iter().filter_map(ours).collect())
}

/// Whose the device of this name is; `None` when there is none.
pub fn owner_of(name: &TapName) -> Result<Option<LinkOwner>, NetlinkError> {
    Ok(Netlink::open()?.link_named(name.as_str())?.as_ref().map(LinkOwner::of))
}

fn open_node() -> Result<std::fs::File, TapError> {
    tun::open().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => TapError::NoRights,
        _ => TapError::NoDriver { source },
    })
}
