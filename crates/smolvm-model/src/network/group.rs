//! Link groups: how the rules know a device of ours, and how many devices are deleted at once.
//!
//! ```text
//!   0x54iiiiii   at work: i from the installation's id; rules match `iifgroup`
//!   0x53rrrrrr   being deleted: r random; every installation's rules drop what comes from there
//! ```
//!
//! The second kind is dropped as a whole because a TAP leaves the first group a moment before it is
//! gone, and in that moment nothing may pass that the rules would have held.

use std::fmt;

use crate::name::InstallId;

/// The group number of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkGroup(u32);

const AT_WORK: u32 = 0x5400_0000;
const LEAVING: u32 = 0x5300_0000;
const LOW: u32 = 0x00ff_ffff;

impl LinkGroup {
    /// The group of all TAPs of one installation.
    pub fn of(install: &InstallId) -> Self {
        let low = u32::try_from(install.as_u64() & u64::from(LOW)).unwrap_or(0);
        Self(AT_WORK | low)
    }

    /// A group for devices about to be deleted together, from random bits of the caller.
    pub fn transient(random: u32) -> Self {
        Self(LEAVING | (random & LOW))
    }

    /// The number the kernel knows.
    pub fn number(self) -> u32 {
        self.0
    }

    /// The mask and value that all transient groups share.
    pub(super) const fn transient_mask() -> (u32, u32) {
        (!LOW, LEAVING)
    }
}

impl fmt::Display for LinkGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_kinds_never_meet_and_are_never_the_default_group() {
        for digest in [[0; 32], [0xff; 32], [0x53; 32]] {
            let group = LinkGroup::of(&InstallId::from_digest(digest)).number();
            let (mask, value) = LinkGroup::transient_mask();
            assert_ne!(group & mask, value);
            assert_ne!(group, 0);
        }
        for random in [0, u32::MAX, 7] {
            let (mask, value) = LinkGroup::transient_mask();
            assert_eq!(LinkGroup::transient(random).number() & mask, value);
        }
    }
}
