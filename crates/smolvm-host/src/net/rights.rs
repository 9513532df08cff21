//! May this process make a `tap` network? Found out by asking the kernel for the parts of it.
//!
//! Some 0.1 ms: no device is made, for taking one away again costs the kernel's grace period (17 ms and more).

use std::io;

use rustix::io::Errno;

use super::netlink::{Netlink, NetlinkError};
use super::tun;
use crate::proc::tool;

/// Why a `tap` network cannot be made here.
#[derive(Debug, thiserror::Error)]
pub enum WhyNot {
    /// The kernel has no TAP driver, or this container no node for it.
    #[error("/dev/net/tun cannot be opened")]
    NoDriver {
        /// The kernel's reason.
        source: io::Error,
    },
    /// Not root, and without the capability.
    #[error("making network devices needs CAP_NET_ADMIN")]
    NoRights,
    /// There is no `nft`.
    #[error("the program `nft` is not installed")]
    NoTool,
    /// The kernel would not for another reason, such as having no nftables.
    #[error(transparent)]
    Netlink(NetlinkError),
}

/// Opens the TAP driver, and asks whether links and the packet filter may be changed.
pub fn can_tap() -> Result<(), WhyNot> {
    let node = tun::open().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => WhyNot::NoRights,
        _ => WhyNot::NoDriver { source },
    })?;
    tun::features(&node).map_err(|source| WhyNot::NoDriver { source })?;
    let why = |e: NetlinkError| if e.errno() == Some(Errno::PERM) { WhyNot::NoRights } else { WhyNot::Netlink(e) };
    Netlink::open().map_err(why)?.may_change_links().map_err(why)?;
    Netlink::may_filter().map_err(why)?;
    tool::find("nft").map(drop).ok_or(WhyNot::NoTool)
}
