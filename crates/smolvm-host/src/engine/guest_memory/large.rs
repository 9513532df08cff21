//! What is large of a guest's own pages goes from our memory straight to the disk.
//!
//! ```text
//!   read at rest    │ page │ ──── 64 KiB, 64 KiB, … without a gap, 512 KiB at least ──── │ pages │
//!   written         cache    O_DIRECT: the disk takes it from here, the processor counts      cache
//!                            digests meanwhile
//! ```
//!
//! Carrying a hundred megabytes through the page cache takes the processor longer than the disk needs for them. Who goes on with
//! the copy reads them from the disk when it first needs them; the many small pieces, which are the kernel's and the first
//! that it needs, are in the cache.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::at_rest::AtRest;
use super::{Own, PAGE_LEN, runs};
use crate::fsx::{data_blocks, in_pieces};

/// More than processors, for they only wait: who computes meanwhile lets each of them wait a little, and the disk must have
/// something to do until then.
const WRITERS: usize = 4;

/// Pages on their way to the disk; they are there after [`Large::finish`].
#[derive(Debug)]
pub struct Large {
    pages: Arc<Pages>,
    beside: Vec<Range<u64>>,
    writing: Mutex<Vec<JoinHandle<Result<()>>>>,
}

impl Large {
    /// It begins and ends at multiples of this, so that nobody needs to put a block together from two places to count its digest.
    pub(crate) const BLOCK: u64 = 64 << 10;
    /// With less at a time the disk waits for us.
    const LEAST: u64 = 512 << 10;
    /// With more at a time others wait for us.
    const MOST: u64 = 4 << 20;

    /// Begins to write what is large; what is not is in the file.
    pub(super) fn begin(pages: Pages) -> Result<Self> {
        // Nobody can look while the file system keeps the file for who writes.
        let beside = Own { ranges: data_blocks(&pages.target, Self::BLOCK)? }.without(&Own { ranges: pages.ranges.clone() }).collect();
        for range in &pages.ranges {
            // With room for it made before, several write at once. Where that cannot be had, writing makes it, or says why not.
            let _ = fallocate(&pages.target, FallocateFlags::empty(), range.start, range.end - range.start);
        }
        let pages = Arc::new(pages);
        let writer = |_| {
            let pages = Arc::clone(&pages);
            Builder::new().spawn(move || pages.write()).ok()
        };
        let writing = (0..WRITERS.min(pages.cut.len())).map_while(writer).collect();
        Ok(Self { pages, beside, writing: Mutex::new(writing) })
    }

    /// Waits until all of it is written; whoever wants it to last syncs the file afterwards.
    pub fn finish(&self) -> Result<()> {
        let writing = std::mem::take(&mut *self.writing.lock().unwrap_or_else(PoisonError::into_inner));
        // Where no thread could be had, all is done here.
        let own = if writing.is_empty() { self.pages.write() } else { Ok(()) };
        let ended = |writer: JoinHandle<Result<()>>| writer.join().unwrap_or_else(|_| Err(Error::other("a thread ended")));
        writing.into_iter().map(ended).fold(own, Result::and)
    }

    /// Where it belongs and what it is, in pieces of whole blocks, in their order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> + Send {
        self.pages.pieces()
    }

    /// Where the file has other data, in whole blocks but for its end, in their order.
    pub(crate) fn beside(&self) -> &[Range<u64>] {
        &self.beside
    }
}

impl Drop for Large {
    /// What was not waited for is wanted by nobody, and the room that it takes on the disk by others.
    fn drop(&mut self) {
        self.pages.stop();
        for writer in self.writing.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = writer.join();
        }
    }
}

/// What was read, and what of it is large.
#[derive(Debug)]
pub(super) struct Pages {
    read: AtRest,
    /// Where they belong, in whole blocks, in their order.
    ranges: Vec<Range<u64>>,
    /// The same in pieces.
    cut: Vec<Range<u64>>,
    target: File,
    direct: Option<File>,
    /// How many pieces somebody has taken.
    begun: Mutex<usize>,
}

impl Pages {
    /// What is large is all that the file system lets go straight to its disk.
    pub(super) fn of(read: AtRest, target: File, path: &Path) -> Self {
        let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        let ranges = if direct.is_some() { large(&read) } else { Vec::new() };
        let cut = ranges.iter().cloned().flat_map(|range| in_pieces(range, Large::MOST)).collect();
        Self { read, ranges, cut, target, direct, begun: Mutex::new(0) }
    }

    /// What is not large.
    pub(super) fn small(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let small: Vec<Range<u64>> = self.read.own().without(&Own { ranges: self.ranges.clone() }).collect();
        small.into_iter().map(|range| (range.start, self.read.bytes_of(&range)))
    }

    fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> + Send {
        self.cut.iter().map(|range| (range.start, self.read.bytes_of(range)))
    }

    /// Writes pieces until there are none; after one that cannot be written nobody begins another.
    fn write(&self) -> Result<()> {
        while let Some(range) = self.next() {
            self.write_piece(range.start, self.read.bytes_of(range)).inspect_err(|_| self.stop())?;
        }
        Ok(())
    }

    fn next(&self) -> Option<&Range<u64>> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.cut.get(*begun)?;
        *begun += 1;
        Some(next)
    }

    fn stop(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = self.cut.len();
    }

    fn write_piece(&self, at: u64, bytes: &[u8]) -> Result<()> {
        match self.direct.as_ref().map(|direct| direct.write_all_at(bytes, at)) {
            // Its disk has larger sectors than pages, or it takes that back.
            Some(Err(e)) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                self.target.write_all_at(bytes, at)
            }
            Some(written) => written,
            None => self.target.write_all_at(bytes, at),
        }
    }
}

/// Blocks without a gap that are enough of them; those of nothing but zeros are left to whoever knows what to do with holes.
fn large(read: &AtRest) -> Vec<Range<u64>> {
    let block = |at: u64| at..at + Large::BLOCK;
    let has_data = |at: u64| read.bytes_of(&block(at)).chunks_exact(PAGE_LEN).any(|page| page != [0; PAGE_LEN]);
    let mut found = Vec::new();
    for run in read.own().runs_of(Large::LEAST) {
        let (first, end) = (run.start.next_multiple_of(Large::BLOCK), run.end / Large::BLOCK * Large::BLOCK);
        let blocks = (first..end).step_by(usize::try_from(Large::BLOCK).unwrap_or(usize::MAX));
        let enough = |(_, count): &(u64, u64)| *count * Large::BLOCK >= Large::LEAST;
        let there = runs(blocks.map(has_data)).into_iter().filter(enough);
        found.extend(there.map(|(number, count)| first + number * Large::BLOCK..first + (number + count) * Large::BLOCK));
    }
    found
}
