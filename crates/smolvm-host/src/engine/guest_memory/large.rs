//! What is large of a guest's own pages goes to the disk while it stands still, a little at a time.
//!
//! ```text
//!   guest     │ page │ ──── 64 KiB, 64 KiB, … without a gap, 512 KiB at least ──── │ pages │
//!   writer    read 1 MiB ─► O_DIRECT ─► digests ─► the next, in the same memory
//!   guest     goes on when the last is read: a disk that would keep it waiting gets the rest from memory of ours, later
//! ```
//!
//! Carrying a hundred megabytes through the page cache takes the processor longer than the disk needs for them, and holding them
//! in our own memory needs that memory, which a host that is a virtual machine itself may have to be given first. Who goes on with
//! the copy reads them from the disk when it first needs them; the many small pieces, which are the kernel's and the first
//! that it needs, are in the cache.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::counted::Counted;
use super::remote::Remote;
use super::room::Room;
use super::{GuestMemory, Own, runs};
use crate::fsx::in_pieces;
use crate::image::block_digest::{BLOCK, BlockDigest, are_zeros, of_blocks};
use crate::threads;

/// More than processors, for they mostly wait: the disk must have something to do while others compute.
const WRITERS: usize = 4;
/// With less without a gap the disk waits for us.
const LEAST: u64 = 512 << 10;
/// What a writer has in memory: with more, less of it is still at hand in the processor when it is written and counted.
const PIECE: u64 = 1 << 20;
/// A guest that stands still for the disk for so long in all is not asked to: reading all into memory takes less.
const PATIENCE: Duration = Duration::from_millis(60);
/// Before that nobody can say how fast the disk is.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// Where large pages will go, and that the file has room for them.
#[derive(Debug)]
pub struct Lane {
    target: File,
    direct: File,
    /// In whole blocks, in their order. Nothing else is written there, until [`Stream::all_written`].
    ranges: Vec<Range<u64>>,
}

impl Lane {
    /// For what of `own` is large now; nobody else writes there. None, where nothing is large, or the file system lets nothing go straight to
    /// its disk.
    pub(super) fn of(own: &Own, target: &File, path: &Path) -> Result<Option<Self>> {
        let ranges = blocks_of(own);
        if ranges.is_empty() {
            return Ok(None);
        }
        let Ok(direct) = File::options().write(true).custom_flags(libc::O_DIRECT).open(path) else { return Ok(None) };
        for range in &ranges {
            // With room for it made before, several write at once. Where that cannot be had, writing makes it, or says why not.
            let _ = fallocate(target, FallocateFlags::empty(), range.start, range.end - range.start);
        }
        Ok(Some(Self { target: target.try_clone()?, direct, ranges }))
    }

    /// How much that is.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// What of a guest's own pages goes this way, now that it stands still.
    pub(super) fn takes(&self, own: &Own) -> Own {
        let lane = Own { ranges: self.ranges.clone() };
        let gone = Own { ranges: lane.without(own).collect() };
        let both = Own { ranges: lane.without(&gone).collect() };
        Own { ranges: blocks_of(&both) }
    }
}

/// Whole blocks without a gap that are enough of them.
fn blocks_of(own: &Own) -> Vec<Range<u64>> {
    let whole = |run: Range<u64>| run.start.next_multiple_of(BLOCK)..run.end / BLOCK * BLOCK;
    own.runs_of(LEAST).into_iter().map(whole).filter(|run| run.end.saturating_sub(run.start) >= LEAST).collect()
}

/// Memory for writers, used before a guest stands still.
#[derive(Debug, Default)]
pub(super) struct Buffers(Vec<Room>);

impl Buffers {
    pub(super) fn make() -> Self {
        Self((0..WRITERS).map(|_| Room::in_small_pages(piece_len())).collect())
    }
}

fn piece_len() -> usize {
    usize::try_from(PIECE).unwrap_or(0)
}

/// Pages on their way to the disk.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Result<Vec<BlockDigest>>>>,
    late: Vec<Late>,
    digests: Vec<BlockDigest>,
}

/// What was read for a disk that is slow.
#[derive(Debug)]
struct Late {
    at: u64,
    room: Room,
}

/// What all writers see.
#[derive(Debug)]
struct Shared {
    memory: Arc<Remote>,
    address: u64,
    lane: Lane,
    /// What goes this way, in whole blocks, and the same in pieces.
    ranges: Vec<Range<u64>>,
    pieces: Vec<Range<u64>>,
    turn: Mutex<Turn>,
    word: Condvar,
}

/// How far they have come.
#[derive(Debug, Default)]
struct Turn {
    /// So many pieces somebody has taken.
    begun: usize,
    /// Of which so many are being read.
    reading: usize,
}

impl Stream {
    /// Begins to read and write what the lane `takes` of a guest that stands still.
    pub(super) fn begin(memory: &GuestMemory, lane: Lane, takes: Own, buffers: Buffers) -> Self {
        let pieces: Vec<_> = takes.ranges.iter().cloned().flat_map(|range| in_pieces(range, PIECE)).collect();
        let (memory, address) = (Arc::clone(&memory.memory), memory.address);
        let count = pieces.len();
        let shared = Arc::new(Shared { memory, address, lane, ranges: takes.ranges, pieces, turn: Mutex::default(), word: Condvar::new() });
        let writer = |mut buffer: Room| {
            let shared = Arc::clone(&shared);
            Builder::new().spawn(move || shared.write_all(buffer.bytes_mut())).ok()
        };
        let writers = buffers.0.into_iter().take(count).map_while(writer).collect();
        Self { shared, writers, late: Vec::new(), digests: Vec::new() }
    }

    /// Waits until all of it is read: the guest may go on then. For a disk that is slow it does not wait.
    pub(super) fn all_read(&mut self) -> Result<()> {
        let (began, all) = (Instant::now(), self.shared.pieces.len());
        loop {
            let turn = self.shared.turn();
            if turn.begun == all && turn.reading == 0 {
                return Ok(());
            }
            if self.writers.is_empty() || too_slow(turn.begun, all, began.elapsed()) {
                break;
            }
            drop(self.shared.word.wait_timeout(turn, LOOK).unwrap_or_else(PoisonError::into_inner));
        }
        while let Some(range) = self.shared.next() {
            let mut room = Room::of(usize::try_from(range.end - range.start).map_err(Error::other)?);
            let read = self.shared.read(range.start, room.bytes_mut());
            self.shared.has_read();
            read?;
            self.late.push(Late { at: range.start, room });
        }
        let turn = self.shared.turn();
        drop(self.shared.word.wait_while(turn, |turn| turn.reading > 0).unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// What goes this way.
    pub(super) fn takes(&self) -> Own {
        Own { ranges: self.shared.ranges.clone() }
    }

    /// Waits until all of it is written. Room that was made in the file and not needed is given back: whoever else writes there does it
    /// after this.
    pub(super) fn all_written(&mut self) -> Result<()> {
        let ended = |writer: JoinHandle<Result<_>>| writer.join().unwrap_or_else(|_| Err(Error::other("a thread ended")));
        let written: Result<Vec<Vec<BlockDigest>>> = self.writers.drain(..).map(ended).collect();
        self.digests.extend(written?.into_iter().flatten());
        let late = Mutex::new(self.late.drain(..));
        let written = threads::at_once(WRITERS, || {
            let mut digests = Vec::new();
            loop {
                let next = late.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(Late { at, room }) = next else { return Ok(digests) };
                self.shared.write(at, room.bytes(), &mut digests)?;
            }
        })?;
        drop(late);
        self.digests.extend(written.into_iter().flatten());
        self.shared.give_back_room(&self.digests);
        Ok(())
    }

    /// The digests of what went this way.
    pub(super) fn into_counted(mut self) -> Counted {
        Counted::new(self.takes(), std::mem::take(&mut self.digests))
    }
}

impl Drop for Stream {
    /// What was not waited for is wanted by nobody.
    fn drop(&mut self) {
        self.shared.turn().begun = self.shared.pieces.len();
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// Whether a guest would stand still for too long, if the rest came as what is `done` of `all` did.
fn too_slow(done: usize, all: usize, elapsed: Duration) -> bool {
    let (done, all) = (u32::try_from(done.max(1)).unwrap_or(u32::MAX), u32::try_from(all).unwrap_or(u32::MAX));
    elapsed >= FIRST_LOOK && elapsed * all > PATIENCE * done
}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece, to be read by whoever asks.
    fn next(&self) -> Option<Range<u64>> {
        let mut turn = self.turn();
        let next = self.pieces.get(turn.begun)?.clone();
        turn.begun += 1;
        turn.reading += 1;
        Some(next)
    }

    fn has_read(&self) {
        self.turn().reading -= 1;
        self.word.notify_all();
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read_exact_at(bytes, self.address + at)
    }

    /// Reads and writes pieces until there are none; after one that fails nobody begins another.
    fn write_all(&self, buffer: &mut [u8]) -> Result<Vec<BlockDigest>> {
        let mut digests = Vec::new();
        while let Some(range) = self.next() {
            let bytes = &mut buffer[..usize::try_from(range.end - range.start).unwrap_or(0)];
            let read = self.read(range.start, bytes);
            self.has_read();
            read.and_then(|()| self.write(range.start, bytes, &mut digests)).inspect_err(|_| self.turn().begun = self.pieces.len())?;
        }
        Ok(digests)
    }

    /// Writes blocks that are not of zeros, where the file has nothing yet.
    fn write(&self, at: u64, bytes: &[u8], digests: &mut Vec<BlockDigest>) -> Result<()> {
        let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
        for (first, count) in runs(bytes.chunks(block).map(|block| !are_zeros(block))) {
            let (start, end) = (first * BLOCK, (first + count) * BLOCK);
            let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0).min(bytes.len());
            self.write_blocks(at + start, &bytes[range])?;
        }
        digests.extend(of_blocks(at, bytes));
        Ok(())
    }

    fn write_blocks(&self, at: u64, bytes: &[u8]) -> Result<()> {
        match self.lane.direct.write_all_at(bytes, at) {
            // Its disk has larger sectors than pages, or it takes that back.
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::OPNOTSUPP)) => self.lane.target.write_all_at(bytes, at),
            written => written,
        }
    }

    /// What room was made for and not needed. Where that cannot be given back, it stays.
    fn give_back_room(&self, digests: &[BlockDigest]) {
        let mut written: Vec<u64> = digests.iter().map(|(number, _)| number * BLOCK).collect();
        written.sort_unstable();
        let written = Own { ranges: written.into_iter().map(|at| at..at + BLOCK).collect() };
        let lane = Own { ranges: self.lane.ranges.clone() };
        for range in lane.without(&written) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.lane.target, flags, range.start, range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::TestMap;
    use super::super::{PAGE, PAGE_LEN};
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const BYTES: u64 = 256 * BLOCK;
    const BLOCK_LEN: usize = 16 * PAGE_LEN;

    /// This very process is the hypervisor; a disk that is quick, and one for which nobody waits.
    #[test]
    fn what_is_read_at_rest_is_written_and_counted_however_quick_the_disk_is() {
        let (behind, dir) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
        behind.set_len(BYTES).unwrap();
        let map = TestMap::of(&behind, BYTES);
        for page in (0..BYTES / PAGE).filter(|page| *page != 2000) {
            map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
        }
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), BYTES).unwrap();
        for (name, writers) in [("quick", WRITERS), ("slow", 0)] {
            let path = dir.path().join(name);
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.set_len(BYTES).unwrap();
            let Some(lane) = Lane::of(&memory.own().unwrap(), &file, &path).unwrap() else {
                panic!("tests need a file system with O_DIRECT")
            };
            assert_eq!(lane.bytes(), BYTES - BLOCK, "but for the block with the page that is not the guest's own");
            // Since then a block was given back, and of two all was overwritten with zeros.
            (64 * BLOCK..65 * BLOCK).step_by(PAGE_LEN).for_each(|at| map.forget(at));
            map.write(70 * BLOCK, &vec![0; 2 * BLOCK_LEN]);
            let takes = lane.takes(&memory.own().unwrap());
            assert_eq!(takes.bytes(), BYTES - 2 * BLOCK);
            let mut buffers = Buffers::make();
            buffers.0.truncate(writers);
            let mut stream = Stream::begin(&memory, lane, takes, buffers);
            stream.all_read().unwrap();
            assert!(writers > 0 || stream.late.len() as u64 >= (BYTES - 2 * BLOCK) / PIECE);
            // It runs again.
            map.write(0, &vec![99; 256 * BLOCK_LEN]);
            stream.all_written().unwrap();
            let counted = stream.into_counted();
            let whole: Vec<_> = (0..256).map(|block| block * BLOCK..(block + 1) * BLOCK).collect();
            assert_eq!(counted.rest_of(whole).len(), 2);
            let mut digests = counted.digests().to_vec();
            digests.sort_unstable_by_key(|(number, _)| *number);
            let seen = std::fs::read(&path).unwrap();
            let zeros = |number: u64| [2000 * PAGE / BLOCK, 64, 70, 71].contains(&number);
            for (number, block) in (0..).zip(seen.chunks(BLOCK_LEN)) {
                let wanted = |page: usize| if zeros(number) { 0 } else { ((number * 16 + page as u64).to_le_bytes()[0]) | 1 };
                assert!(block.chunks(PAGE_LEN).enumerate().all(|(page, bytes)| bytes == [wanted(page); PAGE_LEN]), "{name} {number}");
            }
            let all: Vec<BlockDigest> = of_blocks(0, &seen).collect();
            assert!(digests == all, "{name}");
            let room = file.metadata().unwrap().blocks() * 512;
            assert!(room <= BYTES - 4 * BLOCK + (64 << 10), "{name}: room that was not needed is given back, {room}");
            for page in (0..BYTES / PAGE).filter(|page| *page != 2000) {
                map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
            }
            map.forget(2000 * PAGE);
        }
    }

    #[test]
    fn a_disk_is_slow_when_a_guest_would_stand_still_for_too_long() {
        let ms = Duration::from_millis;
        assert!(!too_slow(0, 100, ms(9)), "nobody can say yet");
        assert!(too_slow(0, 100, ms(10)) && too_slow(10, 100, ms(10)));
        assert!(!too_slow(20, 100, ms(10)) && !too_slow(99, 100, ms(59)));
        assert!(too_slow(99, 100, ms(60)) && too_slow(1, 2, ms(31)));
        assert!(!too_slow(usize::MAX, usize::MAX, ms(10)));
    }

    #[test]
    fn only_what_was_laid_out_and_is_there_still_goes_past_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = File::create_new(&path).unwrap();
        file.set_len(BYTES).unwrap();
        let own = |ranges: &[Range<u64>]| Own { ranges: ranges.iter().map(|blocks| blocks.start * BLOCK..blocks.end * BLOCK).collect() };
        let lane = Lane::of(&own(&[0..3, 3..20, 30..37, 40..48]), &file, &path).unwrap().unwrap();
        assert_eq!(lane.ranges, own(&[0..20, 40..48]).ranges);
        assert_eq!(lane.takes(&own(&[0..12, 13..20, 30..60])).ranges, own(&[0..12, 40..48]).ranges);
        let in_pages = Own { ranges: vec![PAGE..10 * BLOCK - PAGE, 15 * BLOCK..16 * BLOCK] };
        assert_eq!(lane.takes(&in_pages).ranges, [BLOCK..9 * BLOCK, 0..0][..1]);
    }
}
