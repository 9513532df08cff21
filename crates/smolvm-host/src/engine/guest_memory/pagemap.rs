//! Which pages of a guest's memory are its own, and which others it uses, as the kernel tells (`/proc/PID/pagemap`).

use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{AT_ONCE, Own, PAGE, runs};
use crate::threads;

/// Entries that are looked at together: those of 32 MiB.
const ENTRIES: usize = 8 << 10;

/// Bits of an entry (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// The file that tells it.
#[derive(Debug)]
pub(super) struct Pagemap(File);

/// Pages at one moment.
#[derive(Debug, Default, Clone)]
pub struct Pages {
    /// What the guest had to itself.
    pub own: Own,
    /// What of the file behind that it had looked at, with what lay beside it: the kernel maps some pages around each. Whoever goes on with a
    /// copy looks at the same first (all but a hundredth, as measured).
    pub seen: Own,
}

impl Pagemap {
    /// That of a process, whose directory this is.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        File::open(dir.join("pagemap")).map(Self)
    }

    /// Those of so much memory at that address, of which the first has the number 0.
    pub(super) fn pages(&self, address: u64, bytes: u64) -> Result<Pages> {
        let parts = Mutex::new((0..bytes / PAGE).step_by(ENTRIES));
        let mut seen: Vec<(u64, Pages)> = threads::at_once(AT_ONCE, || {
            let (mut entries, mut found) = (vec![0; ENTRIES * size_of::<u64>()], Vec::new());
            loop {
                let next = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(from) = next else { return Ok(found) };
                let count = (bytes / PAGE - from).min(ENTRIES as u64);
                let entries = &mut entries[..usize::try_from(count).unwrap_or(0) * size_of::<u64>()];
                self.0.read_exact_at(entries, (address / PAGE + from) * size_of::<u64>() as u64)?;
                found.push((from, Pages::of(entries, from)));
            }
        })?
        .concat();
        seen.sort_unstable_by_key(|(from, _)| *from);
        let mut pages = Pages::default();
        for (_, part) in seen {
            pages.own.ranges.extend(part.own.ranges);
            pages.seen.ranges.extend(part.seen.ranges);
        }
        Ok(pages)
    }
}

impl Pages {
    /// Those that these entries tell of, the first of which is that of the page of this number.
    fn of(entries: &[u8], from: u64) -> Self {
        let found = |is_one: fn(u64) -> bool| {
            let entries =
                entries.chunks_exact(size_of::<u64>()).map(|entry| entry.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)));
            let places = runs(entries.map(is_one)).into_iter().map(|(first, count)| (from + first) * PAGE..(from + first + count) * PAGE);
            Own { ranges: places.collect() }
        };
        Self { own: found(is_own), seen: found(is_seen) }
    }
}

fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

fn is_seen(entry: u64) -> bool {
    entry & PRESENT != 0 && entry & OF_FILE != 0
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_LEN;
    use super::super::tests::TestMap;
    use super::*;

    /// More than is looked at together.
    const BYTES: u64 = 3 * ENTRIES as u64 * PAGE + 7 * PAGE;

    /// This very process is the hypervisor.
    #[test]
    fn what_is_its_own_and_what_it_has_looked_at() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(BYTES).unwrap();
        let map = TestMap::of(&file, BYTES);
        let (last, second) = (BYTES - PAGE, ENTRIES as u64 * PAGE);
        for at in [second - PAGE, second, last] {
            map.write(at, &[3; PAGE_LEN]);
        }
        let _ = (map.read(2 * second + PAGE), map.read(100 * PAGE));
        let pages = Pagemap::open(Path::new("/proc/self")).unwrap().pages(map.address(), BYTES).unwrap();
        assert_eq!(pages.own.ranges, [second - PAGE..second, second..second + PAGE, last..BYTES]);
        let has = |at: u64| pages.seen.ranges.iter().any(|range| range.contains(&at));
        assert!(has(2 * second + PAGE) && has(100 * PAGE) && !has(second) && !has(last), "{:?}", pages.seen);
        // The kernel maps some pages around one, which are in memory.
        assert!(pages.seen.bytes() <= 2 * (64 << 10), "{:?}", pages.seen);
        assert!(pages.seen.ranges.is_sorted_by_key(|range| range.start));
    }
}
