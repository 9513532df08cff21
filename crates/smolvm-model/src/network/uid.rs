//! Hypervisor uids: a range per installation that no account and no subordinate range touches.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::name::InstallId;

/// Some consecutive ids, such as one line of `/etc/subuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id.
    pub start: u32,
    /// How many there are.
    pub count: u32,
}

/// The uids of one installation, one per sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange(u32);

/// Why there is no range, or no uid in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UidRangeError {
    /// Accounts or subordinate ranges touch every slot.
    #[error("no free range of {SLOT} uids between {FIRST} and {END}")]
    NoFreeRange,
    /// The text (of a record) is not the start of a slot.
    #[error("not the start of a uid range of smolvm")]
    NotARange,
    /// All uids are taken.
    #[error("all {SLOT} uids of this installation are taken")]
    Full,
}

/// Uids per installation: as many as sandboxes could ever be, and the size everybody else uses.
const SLOT: u32 = 65_536;
/// Above what distributions, container tools (524,288 and up) and systemd (up to
/// 1,879,048,191) hand out; below 2^31, where signed arithmetic in old tools begins to fail.
const FIRST: u32 = 1_900_000_000;
const END: u32 = 2_147_000_000;

impl IdRange {
    fn overlaps(self, start: u32, count: u32) -> bool {
        // 64 bits, because a hostile line may end beyond 2^32.
        u64::from(self.start) < u64::from(start) + u64::from(count) && u64::from(start) < u64::from(self.start) + u64::from(self.count)
    }
}

impl UidRange {
    /// Chooses the range of an installation; `used` are the uids of accounts and the subordinate ranges.
    pub fn choose(install: &InstallId, used: &[IdRange]) -> Result<Self, UidRangeError> {
        let slots = (END - FIRST) / SLOT;
        let seed = u32::try_from(install.as_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0) % slots;
        (0..slots)
            .map(|i| FIRST + (seed + i) % slots * SLOT)
            .find(|&start| !used.iter().any(|range| range.overlaps(start, SLOT)))
            .map(Self)
            .ok_or(UidRangeError::NoFreeRange)
    }

    /// The first uid, by which the range is recorded.
    pub fn start(&self) -> u32 {
        self.0
    }

    /// Takes the range that starts here, as it was recorded before.
    pub fn from_start(start: u32) -> Result<Self, UidRangeError> {
        let in_place = start >= FIRST && start.checked_add(SLOT).is_some_and(|end| end <= END) && (start - FIRST).is_multiple_of(SLOT);
        if in_place { Ok(Self(start)) } else { Err(UidRangeError::NotARange) }
    }

    /// Whether the uid is in this range.
    pub fn contains(&self, uid: u32) -> bool {
        (self.0..self.0 + SLOT).contains(&uid)
    }

    /// The first uid that is not taken.
    pub fn allocate(&self, taken: &BTreeSet<u32>) -> Result<u32, UidRangeError> {
        (self.0..self.0 + SLOT).find(|uid| !taken.contains(uid)).ok_or(UidRangeError::Full)
    }
}

impl FromStr for UidRange {
    type Err = UidRangeError;

    fn from_str(text: &str) -> Result<Self, UidRangeError> {
        if text.starts_with('+') {
            return Err(UidRangeError::NotARange);
        }
        Self::from_start(text.parse().map_err(|_| UidRangeError::NotARange)?)
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_that_uses_everything_has_no_range() {
        let all = [IdRange { start: 0, count: u32::MAX }];
        assert_eq!(UidRange::choose(&InstallId::from_digest([1; 32]), &all), Err(UidRangeError::NoFreeRange));
    }

    #[test]
    fn an_account_inside_the_range_moves_it() {
        let install = InstallId::from_digest([9; 32]);
        let free = UidRange::choose(&install, &[]).unwrap();
        let moved = UidRange::choose(&install, &[IdRange { start: free.start() + 65_535, count: 1 }]).unwrap();
        assert_ne!(free, moved);
        let beside = [IdRange { start: free.start() - 1, count: 1 }, IdRange { start: free.start() + 65_536, count: 1 }];
        assert_eq!(UidRange::choose(&install, &beside), Ok(free));
        assert_eq!(free.to_string().parse(), Ok(free));
    }

    #[test]
    fn recorded_starts_are_checked() {
        for bad in ["", "0", "-1", "1899999999", "1900000001", "4294967295", "2147000000", "+1900000000"] {
            assert!(bad.parse::<UidRange>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn in_bounds_and_clear_of_what_is_used(seed: [u8; 32], used in proptest::collection::vec((FIRST..END, 0..200_000_u32), 0..50)) {
            let used: Vec<IdRange> = used.into_iter().map(|(start, count)| IdRange { start, count }).collect();
            if let Ok(range) = UidRange::choose(&InstallId::from_digest(seed), &used) {
                prop_assert!(range.start() >= FIRST && range.start() + SLOT <= END);
                prop_assert!(used.iter().all(|u| !u.overlaps(range.start(), SLOT)));
                prop_assert_eq!(UidRange::from_start(range.start()), Ok(range));
                let taken = BTreeSet::from([range.start(), range.start() + 1]);
                prop_assert_eq!(range.allocate(&taken), Ok(range.start() + 2));
            }
        }
    }
}
