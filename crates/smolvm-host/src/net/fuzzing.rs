//! What the kernel, `nft` and the host's files say about networks.

use smolvm_model::network::IdRange;

pub use super::dns::fuzzing as dns;
use super::firewall::Blocker;
pub use super::netlink::fuzzing as netlink;
use super::netlink::{Link, Route};
use super::nft::{MarkedElement, NftError};
use super::uplink::Uplinks;
pub use super::user::fuzzing as user;
use super::{accounts, firewall, nft, uplink};

/// The elements in what `nft -j` lists.
pub fn elements(json: &[u8]) -> Result<Vec<MarkedElement>, NftError> {
    nft::objects(json).map(|objects| nft::marked(&objects))
}

/// The installations with a table in what `nft -j` lists.
pub fn tables(json: &[u8]) -> Result<Vec<smolvm_model::name::InstallId>, NftError> {
    nft::objects(json).map(|objects| nft::owners(&objects))
}

/// The chains that would drop guests' packets.
pub fn blockers(json: &[u8]) -> Result<Vec<Blocker>, NftError> {
    nft::objects(json).map(|objects| firewall::judge(&objects))
}

/// The way to the world.
pub fn uplinks(routes: &[Route], links: &[Link]) -> Uplinks {
    uplink::choose(routes, links)
}

/// A line of `/etc/passwd`.
pub fn account(line: &str) -> Option<IdRange> {
    accounts::account(line)
}

/// A line of `/etc/subuid`.
pub fn subordinate(line: &str) -> Option<IdRange> {
    accounts::subordinate(line)
}
