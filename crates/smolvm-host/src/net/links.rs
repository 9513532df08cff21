//! Deletes many TAPs for the price of one.
//!
//! ```text
//!   list once ─► whose is each? ─► move ours into a fresh group ─► list: exactly ours in it? ─► delete the group
//!                                                                        no, or refused ─► delete one by one
//! ```
//!
//! The kernel waits out a grace period per deletion request (some 17 ms), not per device. A device is
//! addressed by its index from the list in which its alias was seen: a name can change hands in between,
//! an index cannot.

use crate::effect::Permit;
use std::collections::{BTreeSet, HashMap};

use rustix::io::Errno;
use smolvm_model::name::{Mark, TapName};
use smolvm_model::network::LinkGroup;

use super::netlink::{Link, Netlink, NetlinkError};
use super::tap::LinkOwner;

/// How the deletion of one TAP went.
#[derive(Debug)]
pub enum Outcome {
    /// It is gone, by us.
    Released,
    /// There was none of that name.
    AlreadyGone,
    /// It is another's, and stays.
    Refused {
        /// Whose it is.
        found: LinkOwner,
    },
    /// The kernel would not.
    Failed(NetlinkError),
}

/// Deletes these TAPs where they carry the given marks; outcomes come in the order of `targets`.
///
/// Fails as a whole, with nothing deleted, only when the devices cannot be listed.
pub fn delete_all(_permit: &Permit, targets: &[(TapName, Mark)]) -> Result<Vec<Outcome>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let named: HashMap<&str, &Link> = links.iter().map(|link| (link.name.as_str(), link)).collect();
    let verdicts: Vec<Result<u32, Outcome>> = targets.iter().map(|(name, mark)| judge(&named, name, mark)).collect();
    let ours: BTreeSet<u32> = verdicts.iter().filter_map(|verdict| verdict.as_ref().ok().copied()).collect();
    // One device alone is deleted as fast without a group.
    let gone = if ours.len() > 1 { delete_together(&mut netlink, &links, &ours) } else { Gone::No };
    Ok(verdicts
        .into_iter()
        .map(|verdict| match (verdict, gone) {
            (Err(outcome), _) => outcome,
            (Ok(_), Gone::Yes) => Outcome::Released,
            (Ok(index), Gone::No) => delete_one(&mut netlink, index),
        })
        .collect())
}

#[derive(Debug, Clone, Copy)]
enum Gone {
    Yes,
    No,
}

fn judge(named: &HashMap<&str, &Link>, name: &TapName, mark: &Mark) -> Result<u32, Outcome> {
    let Some(link) = named.get(name.as_str()) else { return Err(Outcome::AlreadyGone) };
    match LinkOwner::of(link) {
        LinkOwner::Sandbox(found) if found == *mark => Ok(link.index),
        found => Err(Outcome::Refused { found }),
    }
}

/// Deletes exactly these devices at once, or says that they are to be deleted one by one.
fn delete_together(netlink: &mut Netlink, links: &[Link], ours: &BTreeSet<u32>) -> Gone {
    let Some(group) = unused_group(links) else { return Gone::No };
    let indices: Vec<u32> = ours.iter().copied().collect();
    let moved = netlink.regroup(&indices, group).is_ok_and(|results| results.iter().all(Result::is_ok));
    // Somebody else may have chosen the same number meanwhile, or moved a device of theirs into it.
    let alone = netlink
        .links()
        .is_ok_and(|links| links.iter().filter(|link| link.group == group).map(|link| link.index).collect::<BTreeSet<_>>() == *ours);
    if moved && alone && netlink.delete_group(group).is_ok() { Gone::Yes } else { Gone::No }
}

fn unused_group(links: &[Link]) -> Option<u32> {
    (0..16).find_map(|_| {
        let mut random = [0; 4];
        getrandom::fill(&mut random).ok()?;
        let group = LinkGroup::transient(u32::from_ne_bytes(random)).number();
        (!links.iter().any(|link| link.group == group)).then_some(group)
    })
}

fn delete_one(netlink: &mut Netlink, index: u32) -> Outcome {
    match netlink.delete_link(index) {
        Ok(()) => Outcome::Released,
        Err(e) if e.errno() == Some(Errno::NODEV) => Outcome::AlreadyGone,
        Err(e) => Outcome::Failed(e),
    }
}
