//! Questions whose only purpose is whether they are allowed.

use std::io;

use rustix::io::Errno;
use rustix::net::netlink;

use super::wire::Request;
use super::{LinkChange, Netlink, NetlinkError};

/// `NFNL_SUBSYS_NFTABLES` in the high byte, `NFT_MSG_GETGEN` in the low one.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// No kernel counts this far.
const NO_LINK: u32 = i32::MAX as u32;

impl Netlink {
    /// Whether this process may change links: asks to change nothing about a link that does not exist. The kernel
    /// looks at the rights first.
    pub fn may_change_links(&mut self) -> Result<(), NetlinkError> {
        match self.change_link(NO_LINK, LinkChange::default()) {
            Err(e) if e.errno() == Some(Errno::NODEV) => Ok(()),
            other => other,
        }
    }

    /// Whether the kernel has nftables and this process may speak to it: asks for the number of the present ruleset.
    pub fn may_filter() -> Result<(), NetlinkError> {
        const ACTION: &str = "tell the state of the packet filter";
        let mut filter = Self::open_for(Some(netlink::NETFILTER))?;
        // `struct nfgenmsg`: any family, version 0, no resource.
        match filter.ask(ACTION, Request::new(GET_GENERATION, 0, &[0; 4]), |_| Ok(())) {
            // Said by kernels without nftables.
            Err(e) if e.errno() == Some(Errno::INVAL) => {
                Err(NetlinkError::Refused { action: ACTION, source: io::ErrorKind::Unsupported.into() })
            }
            other => other,
        }
    }
}
