//! The networks this host has routes to.

use smolvm_model::network::Ipv4Net;

use super::netlink::{Netlink, NetlinkError};

/// Everything the kernel has a route to, of all tables, its own addresses included: what a pool of
/// guest addresses must not overlap.
pub fn known() -> Result<Vec<Ipv4Net>, NetlinkError> {
    let mut nets: Vec<Ipv4Net> = Netlink::open()?.routes()?.into_iter().map(|route| route.to).collect();
    nets.sort_unstable();
    nets.dedup();
    Ok(nets)
}
