//! What is large of a guest's own pages goes to the disk while it stands still, a little at a time, and then what nobody has copied yet of
//! what is behind them.
//!
//! ```text
//!   guest     │ page │ ──── 64 KiB, 64 KiB, … without a gap, 512 KiB at least ──── │ pages │
//!   writer    read 1 MiB ─► O_DIRECT ─► digests ─► the next, in the same memory
//!   guest     goes on when the last is read: a disk that would keep it waiting gets the rest from memory of ours, later
//!   file      ──── 64 KiB, … none of which has a page of the guest's own ────     the same writers, after that
//! ```
//!
//! Carrying a hundred megabytes through the page cache takes the processor longer than the disk needs for them, and holding them
//! in our own memory needs that memory, which a host that is a virtual machine itself may have to be given first. Who goes on with
//! the copy reads them from the disk when it first needs them; the many small pieces, which are the kernel's and the first
//! that it needs, are in the cache, and what it looks at of what is behind them is, too ([`super::backing`]).

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::backing::Behind;
use super::counted::Counted;
use super::remote::Remote;
use super::room::Room;
use super::{GuestMemory, Own, runs};
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
    /// For what of `own` is large now; nobody else writes there. There will be room for what is `behind`, too. None, where the file system lets
    /// nothing go straight to its disk.
    pub(super) fn of(own: &Own, behind: &Own, target: &File, path: &Path) -> Result<Option<Self>> {
        let ranges = blocks_of(own);
        let Ok(direct) = File::options().write(true).custom_flags(libc::O_DIRECT).open(path) else { return Ok(None) };
        for range in ranges.iter().chain(&behind.ranges) {
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
        Own { ranges: blocks_of(&Own { ranges: self.ranges.clone() }.within(own)) }
    }
}

/// Whole blocks without a gap that are enough of them.
fn blocks_of(own: &Own) -> Vec<Range<u64>> {
    let mut blocks = own.whole_blocks().ranges;
    blocks.retain(|run| run.end - run.start >= LEAST);
    blocks
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
    /// Counts those of what is behind and does not go this way.
    counter: Option<JoinHandle<Result<Counted>>>,
    /// Whether nobody wants what it counts.
    unwanted: Arc<AtomicBool>,
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
    /// What of the guest's own pages goes this way, in whole blocks.
    own: Own,
    /// From which file what is behind them does, and what of it.
    behind: Option<(File, Own)>,
    /// Both, in this order.
    pieces: Vec<Piece>,
    turn: Mutex<Turn>,
    word: Condvar,
}

/// What is read and written together.
#[derive(Debug, Clone)]
enum Piece {
    /// Of the guest, which waits until it is read.
    Own(Range<u64>),
    /// Of what is behind its own pages, and never changes.
    Behind(Range<u64>),
}

/// How far they have come.
#[derive(Debug, Default)]
struct Turn {
    /// So many pieces somebody has taken.
    begun: usize,
    /// Of which so many are the guest's and being read.
    reading: usize,
}

impl Stream {
    /// Begins to read and write what the lane takes of a guest that stands still, whose pages are `own`, and then what is left of what is behind
    /// them.
    pub(super) fn begin(memory: &GuestMemory, (lane, buffers): (Lane, Buffers), own: &Own, behind: Option<Behind>) -> Result<Self> {
        let takes = lane.takes(own);
        let unwanted = Arc::new(AtomicBool::new(false));
        let (behind, counter) = match behind {
            Some(behind) => {
                let left = behind.takes(own);
                let (file, blocks) = (behind.file.try_clone()?, behind.blocks_but(own, &left)?);
                let unwanted = Arc::clone(&unwanted);
                (Some((behind.file, left)), Builder::new().spawn(move || Counted::of_file(&file, blocks, &unwanted)).ok())
            }
            None => (None, None),
        };
        let further = behind.iter().flat_map(|(_, left)| left.pieces(PIECE)).map(Piece::Behind);
        let pieces: Vec<_> = takes.pieces(PIECE).map(Piece::Own).chain(further).collect();
        let (memory, address, count) = (Arc::clone(&memory.memory), memory.address, pieces.len());
        let shared = Arc::new(Shared { memory, address, lane, own: takes, behind, pieces, turn: Mutex::default(), word: Condvar::new() });
        let writer = |mut buffer: Room| {
            let shared = Arc::clone(&shared);
            Builder::new().spawn(move || shared.write_all(buffer.bytes_mut())).ok()
        };
        let writers = buffers.0.into_iter().take(count).map_while(writer).collect();
        Ok(Self { shared, writers, late: Vec::new(), digests: Vec::new(), counter, unwanted })
    }

    /// Waits until all of it is read: the guest may go on then. For a disk that is slow it does not wait.
    pub(super) fn all_read(&mut self) -> Result<()> {
        let (began, all) = (Instant::now(), self.shared.own_pieces());
        loop {
            let turn = self.shared.turn();
            if turn.begun >= all && turn.reading == 0 {
                return Ok(());
            }
            if self.writers.is_empty() || too_slow(turn.begun, all, began.elapsed()) {
                break;
            }
            drop(self.shared.word.wait_timeout(turn, LOOK).unwrap_or_else(PoisonError::into_inner));
        }
        while let Some(range) = self.shared.next_own() {
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

    /// What of the guest's own pages goes this way.
    pub(super) fn own(&self) -> &Own {
        &self.shared.own
    }

    /// What of what is behind them does.
    pub(super) fn behind(&self) -> Own {
        self.shared.behind.as_ref().map(|(_, left)| left.clone()).unwrap_or_default()
    }

    /// Waits until all of it is written. Room that was made in the file and not needed is given back: whoever else writes there does it
    /// after this.
    pub(super) fn all_written(&mut self) -> Result<()> {
        let ended = |writer: JoinHandle<Result<_>>| writer.join().unwrap_or_else(|_| Err(Error::other("a thread ended")));
        let written: Result<Vec<Vec<BlockDigest>>> = self.writers.drain(..).map(ended).collect();
        self.digests.extend(written?.into_iter().flatten());
        // Where no thread could be had, nothing of what is behind is written yet.
        if self.shared.is_left() {
            self.digests.extend(self.shared.write_all(Room::in_small_pages(piece_len()).bytes_mut())?);
        }
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

    /// The digests of what went this way, and of what will be in the copy as it is behind it.
    pub(super) fn into_counted(mut self) -> Result<Counted> {
        let here = Counted::new(self.own().clone().and(self.behind()), std::mem::take(&mut self.digests));
        // Where no thread could be had, they are counted later, in the copy.
        let Some(counter) = self.counter.take() else { return Ok(here) };
        Ok(here.and(counter.join().unwrap_or_else(|_| Err(Error::other("a thread ended")))?))
    }
}

impl Drop for Stream {
    /// What was not waited for is wanted by nobody.
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
        self.shared.turn().begun = self.shared.pieces.len();
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
        let _ = self.counter.take().map(JoinHandle::join);
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

    /// How many pieces are the guest's.
    fn own_pieces(&self) -> usize {
        self.pieces.partition_point(|piece| matches!(piece, Piece::Own(_)))
    }

    /// The next piece, to be read by whoever asks.
    fn next(&self) -> Option<Piece> {
        let mut turn = self.turn();
        let next = self.pieces.get(turn.begun)?.clone();
        turn.begun += 1;
        turn.reading += usize::from(matches!(next, Piece::Own(_)));
        Some(next)
    }

    /// The same, if it is the guest's.
    fn next_own(&self) -> Option<Range<u64>> {
        let mut turn = self.turn();
        let Some(Piece::Own(next)) = self.pieces.get(turn.begun) else { return None };
        turn.begun += 1;
        turn.reading += 1;
        Some(next.clone())
    }

    /// Whether there is a piece that nobody has taken.
    fn is_left(&self) -> bool {
        self.turn().begun < self.pieces.len()
    }

    fn has_read(&self) {
        self.turn().reading -= 1;
        self.word.notify_all();
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.memory.read_exact_at(bytes, self.address + at)
    }

    fn read_behind(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.behind.as_ref().map_or(Ok(()), |(file, _)| file.read_exact_at(bytes, at))
    }

    /// Reads and writes pieces until there are none; after one that fails nobody begins another.
    fn write_all(&self, buffer: &mut [u8]) -> Result<Vec<BlockDigest>> {
        let mut digests = Vec::new();
        while let Some(piece) = self.next() {
            let (Piece::Own(range) | Piece::Behind(range)) = piece.clone();
            let bytes = &mut buffer[..usize::try_from(range.end - range.start).unwrap_or(0)];
            let read = match piece {
                Piece::Own(_) => {
                    let read = self.read(range.start, bytes);
                    self.has_read();
                    read
                }
                Piece::Behind(_) => self.read_behind(range.start, bytes),
            };
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
        let behind = self.behind.as_ref().map(|(_, left)| left.clone()).unwrap_or_default();
        let room = Own { ranges: self.lane.ranges.clone() }.and(behind);
        for range in room.without(&written) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = fallocate(&self.lane.target, flags, range.start, range.end - range.start);
        }
    }
}

#[cfg(test)]
mod tests;
