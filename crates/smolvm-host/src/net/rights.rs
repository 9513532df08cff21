//! May this process make a `tap` network? Found out by making a part of one.

use std::io;

use super::nft::{self, NftError};
use super::tun::{self, Attach};

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
    /// A TAP could not be made for another reason.
    #[error("a network device cannot be made")]
    NoDevice {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The packet filter cannot be changed.
    #[error(transparent)]
    NoFilter(#[from] NftError),
}

/// Makes a TAP that is gone again before this returns, and has `nft` check a table without adding it (together
/// some 10 ms, most of them `nft`'s).
pub fn can_tap() -> Result<(), WhyNot> {
    let node = tun::open().map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => WhyNot::NoRights,
        _ => WhyNot::NoDriver { source },
    })?;
    // The kernel numbers it; nobody else can own the name. It has no mark, for it never outlives this call.
    tun::attach(node, "svprobe%d", Attach::New).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => WhyNot::NoRights,
        _ => WhyNot::NoDevice { source },
    })?;
    Ok(nft::check("add table inet smolvm_probe\n")?)
}
