//! A guest's own pages in memory: read while it stands still, written when it runs again.
//!
//! So it never waits for a disk, nor for a file system that is busy with what was written before.

use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

use super::{AT_ONCE, Fate, GuestMemory, Own, PAGE_LEN, Pieces, write_page_wise};
use crate::fsx::WriteBehind;
use crate::threads;

/// Pages, and where they belong.
#[derive(Debug)]
pub struct AtRest {
    /// More than its length is not read.
    bytes: Vec<u8>,
    /// First byte and length of each run of them, in the order in which they lie.
    pieces: Vec<(u64, usize)>,
}

impl AtRest {
    /// Room for so many bytes, which is made beside that work.
    pub fn room_beside(bytes: u64, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let bytes = usize::try_from(bytes).map_err(Error::other)?;
        let make = || {
            let mut room = vec![0; bytes];
            in_large_pages(&mut room);
            // The kernel promises memory, and clears it when it is first used: not while a guest waits for it.
            room.iter_mut().step_by(PAGE_LEN).for_each(|byte| *byte = 1);
            room
        };
        scope(|scope| {
            // Where no thread can be had, it is made afterwards.
            let helper = Builder::new().spawn_scoped(scope, make).ok();
            work()?;
            let room = helper.map_or_else(|| Ok(make()), |helper| helper.join().map_err(|_| Error::other("a thread ended")))?;
            Ok(Self { bytes: room, pieces: Vec::new() })
        })
    }

    /// What it is for: reading it takes no longer than looking at all of it for what has changed since it was copied ahead. More
    /// would keep the guest waiting.
    pub const MOST: u64 = 128 << 20;

    /// What was read.
    pub fn own(&self) -> Own {
        let ranges = self.pieces.iter().map(|(at, len)| *at..*at + *len as u64).collect();
        Own { ranges }
    }

    /// Reads what the guest has to itself; gives its bytes. Nothing is read if that has come to be more than there is room for.
    pub fn read(&mut self, memory: &GuestMemory) -> Result<Option<u64>> {
        let (mut places, mut total) = (Pieces::of(memory), 0);
        self.pieces.clear();
        while let Some((at, len)) = places.next()? {
            let len = usize::try_from(len).map_err(Error::other)?;
            self.pieces.push((at, len));
            total += len;
        }
        if total > self.bytes.len() {
            return Ok(None);
        }
        let pieces = Mutex::new(split(&self.pieces, &mut self.bytes));
        threads::at_once(AT_ONCE, || {
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, bytes)) = next else { return Ok(()) };
                memory.memory.read_exact_at(bytes, memory.address + at)?;
            }
        })?;
        Ok(Some(total as u64))
    }

    /// Writes what was read over what a file has.
    pub fn write(&self, target: &File, fate: Fate) -> Result<()> {
        let mut rest = &self.bytes[..];
        let pieces = self.pieces.iter().map(|(at, len)| {
            let (piece, further) = rest.split_at(*len);
            rest = further;
            (*at, piece)
        });
        let (pieces, behind) = (Mutex::new(pieces), Mutex::new(WriteBehind::of(target)));
        threads::at_once(AT_ONCE, || {
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, bytes)) = next else { return Ok(()) };
                write_page_wise(target, bytes, at)?;
                if fate == Fate::Lasting {
                    behind.lock().unwrap_or_else(PoisonError::into_inner).wrote(at, at + bytes.len() as u64)?;
                }
            }
        })
        .map(drop)
    }
}

/// Asks for it in large pages: made one by one, the small ones take longer than what is copied into them.
#[allow(unsafe_code, reason = "madvise has no safe wrapper")]
fn in_large_pages(room: &mut [u8]) {
    let skipped = room.as_ptr().align_offset(PAGE_LEN).min(room.len());
    let whole = &mut room[skipped..];
    let len = whole.len() / PAGE_LEN * PAGE_LEN;
    // SAFETY: whole pages of memory that is this slice's alone; the advice changes nothing that is read from it. A kernel that
    // does not take it makes small pages.
    unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
}

/// The room of each piece.
fn split<'a>(pieces: &'a [(u64, usize)], room: &'a mut [u8]) -> impl Iterator<Item = (u64, &'a mut [u8])> + Send {
    let mut rest = room;
    pieces.iter().map(move |(at, len)| {
        let (piece, further) = std::mem::take(&mut rest).split_at_mut(*len);
        rest = further;
        (*at, piece)
    })
}

#[cfg(test)]
mod tests {
    use super::super::PAGE;
    use super::super::tests::TestMap;
    use super::*;
    use std::path::Path;

    /// This very process is the hypervisor: a private mapping of a file, some of whose pages it wrote.
    #[test]
    fn what_was_read_at_rest_is_what_is_written_later() {
        let file = tempfile::tempfile().unwrap();
        let pages = 4096;
        file.set_len(pages * PAGE).unwrap();
        file.write_all_at(&[1; PAGE_LEN], 0).unwrap();
        file.write_all_at(&[2; PAGE_LEN], 5 * PAGE).unwrap();
        let map = TestMap::of(&file, pages * PAGE);
        map.write(5 * PAGE, &[0; PAGE_LEN]);
        for page in 100..3000 {
            map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
        }
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), pages * PAGE).unwrap();
        for (fate, room) in [(Fate::Lasting, 2902 * PAGE), (Fate::Passing, 4000 * PAGE)] {
            let copy = tempfile::tempfile().unwrap();
            let mut at_rest = AtRest::room_beside(room, || memory.copy_backing(&copy, fate)).unwrap();
            map.write(3500 * PAGE, &[9; PAGE_LEN]);
            assert_eq!(at_rest.read(&memory).unwrap(), Some(2902 * PAGE));
            assert_eq!(at_rest.own().bytes(), 2902 * PAGE);
            // It runs again.
            map.write(200 * PAGE, &[77; PAGE_LEN]);
            map.write(4000 * PAGE, &[77; PAGE_LEN]);
            at_rest.write(&copy, fate).unwrap();
            let at = |page: u64| {
                let mut byte = [0];
                copy.read_exact_at(&mut byte, page * PAGE).unwrap();
                byte[0]
            };
            assert_eq!([0, 1, 5, 99, 100, 200, 2999, 3000, 3500, 4000].map(at), [1, 0, 0, 0, 101, 201, 183, 0, 9, 0]);
            map.write(200 * PAGE, &[201; PAGE_LEN]);
            map.forget(4000 * PAGE);
        }
        let mut small = AtRest::room_beside(2900 * PAGE, || Ok(())).unwrap();
        assert_eq!(small.read(&memory).unwrap(), None);
        assert!(AtRest::room_beside(PAGE, || Err(Error::other("no"))).is_err());
    }
}
