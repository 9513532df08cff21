//! What is behind a guest's own pages, on its way into a copy while other things are done.
//!
//! ```text
//!   before        │ file │ ─── own, and much ─── │ file │ own │ file │ file │
//!   copied          2                               1      1     1             through the cache; own pages are written over it
//!   when it rests           given back since: ▲                           ▲ what is left: straight to the disk, by others ([`Behind`])
//! ```
//!
//! First what the guest has looked at, and what lies beside its small pages: whoever goes on with the copy needs that first, and finds it in the
//! cache. The rest it hardly ever needs.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::large::Lane;
use super::{Backing, Fate, GuestMemory, Own, PAGE, Pages};
use crate::fsx::{copy_data, copy_data_of, copy_data_to_disk, data_blocks};
use crate::image::block_digest::BLOCK;

/// Pages without a gap for which copying what is behind them would take longer than going around them.
const LEAST: u64 = 512 << 10;

/// So long a guest stands still for the copier to end; it carries one piece more in a millisecond, unless it waits for a disk.
const ENDING: Duration = Duration::from_millis(10);

/// A thread that copies; it ends with this, whatever it has done by then.
#[derive(Debug)]
pub struct BackingCopy {
    /// It gives what it has left.
    thread: Option<JoinHandle<Result<Vec<Range<u64>>>>>,
    /// Hung up when it has ended.
    ended: Receiver<()>,
    end: Arc<AtomicBool>,
    fate: Fate,
    /// From where and into what, where there is anything.
    files: Option<(File, File)>,
    /// What the guest had to itself before, so that nothing of it was copied.
    left_out: Own,
    /// What was to be copied, and was not when it was told to end.
    left: Own,
}

/// What is behind the guest's own pages when it stands still.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) file: File,
    /// What of it nobody has copied yet.
    pub(super) left: Own,
}

impl Behind {
    /// What of that can go to the disk in whole blocks, none of which has a page of the guest's own.
    pub(super) fn takes(&self, own: &Own) -> Own {
        Own { ranges: self.left.without(&own.blocks()).collect() }.whole_blocks()
    }

    /// All blocks that will be in the copy as they are here, but for some.
    pub(super) fn blocks_but(&self, own: &Own, taken: &Own) -> Result<Own> {
        let data = Own { ranges: data_blocks(&self.file, BLOCK)? };
        let free = Own { ranges: data.without(&own.blocks()).collect() };
        Ok(Own { ranges: free.without(taken).collect() })
    }
}

impl BackingCopy {
    /// Begins to copy it into an empty file, which has the memory's length by then. What is to last is brought to the disk, too.
    ///
    /// Of what is to last nothing is copied for now where the guest has much to itself already; first comes what it uses.
    pub fn begin(memory: &GuestMemory, target: &File, fate: Fate, pages: &Pages) -> Result<Self> {
        // Where a copy passes, its file system mostly shares blocks, and many small pieces cost more than the whole.
        let left_out = Own { ranges: if fate == Fate::Lasting { pages.own.runs_of(LEAST) } else { Vec::new() } };
        target.set_len(memory.bytes)?;
        let (sender, ended) = channel::<()>();
        let mut copy = Self { thread: None, ended, end: Arc::default(), fate, files: None, left_out, left: Own::default() };
        let Backing::File(source) = &memory.backing else { return Ok(copy) };
        let order = if fate == Fate::Lasting { order(pages, &copy.left_out, memory.bytes) } else { Vec::new() };
        let (from, to, end, bytes) = (source.try_clone()?, target.try_clone()?, Arc::clone(&copy.end), memory.bytes);
        let work = Arc::new(move || match fate {
            Fate::Passing => copy_data(&from, &to, bytes).map(|()| Vec::new()),
            Fate::Lasting => copy_data_to_disk(&from, &to, &order, &end),
        });
        let in_thread = Arc::clone(&work);
        copy.files = Some((source.try_clone()?, target.try_clone()?));
        let in_thread = move || {
            let _hangs_up = sender;
            in_thread()
        };
        match Builder::new().spawn(in_thread) {
            Ok(thread) => copy.thread = Some(thread),
            // Where no thread can be had, other things are done afterwards.
            Err(_) => drop(work()?),
        }
        Ok(copy)
    }

    /// A way past the cache for what the guest has to itself where nothing is copied, and for what will be left. `path` is the target's. None for
    /// what passes: nobody waits for a disk then.
    pub fn lane(&self, target: &File, path: &Path) -> Result<Option<Lane>> {
        if self.fate == Fate::Passing {
            return Ok(None);
        }
        let behind = self.files.as_ref().map(|(source, _)| data_blocks(source, PAGE)).transpose()?.unwrap_or_default();
        let behind = Own { ranges: Own { ranges: behind }.without(&self.left_out).collect() };
        Lane::of(&self.left_out, &behind, target, path)
    }

    /// What went wrong so far, if something did.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) { self.join() } else { Ok(()) }
    }

    /// It is to end soon.
    pub(super) fn ask_to_end(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Ends: the file is wanted by others, and who writes through its cache would keep them waiting. They take over what is left, but what they
    /// do not take ([`Behind::takes`]) is done by `finish`. All of it, where it does not end in time: no guest stands still for a disk.
    pub(super) fn hand_over(&mut self) -> Result<Option<Behind>> {
        self.ask_to_end();
        if self.thread.is_some() && self.ended.recv_timeout(ENDING) == Err(RecvTimeoutError::Timeout) {
            return Ok(None);
        }
        self.join()?;
        let Some((source, _)) = &self.files else { return Ok(None) };
        Ok(Some(Behind { file: source.try_clone()?, left: self.left.clone() }))
    }

    /// Waits for its end, and copies what the guest had to itself and has not any more, now that it stands still, and what others did not take over.
    pub fn finish(mut self, now: &Own, taken: &Own) -> Result<()> {
        self.join()?;
        let Some((source, target)) = &self.files else { return Ok(()) };
        self.left_out.without(now).chain(self.left.without(taken)).try_for_each(|range| copy_data_of(source, target, range))
    }

    fn join(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let left = thread.join().unwrap_or_else(|_| Err(Error::other("a thread ended")))?;
        if !left.is_empty()
            && let Some((source, _)) = &self.files
        {
            let mut left = Own { ranges: left };
            left.ranges.sort_unstable_by_key(|range| range.start);
            let data = Own { ranges: data_blocks(source, PAGE)? };
            self.left = data.within(&left);
        }
        Ok(())
    }
}

impl Drop for BackingCopy {
    fn drop(&mut self) {
        self.ask_to_end();
        // Nobody wants to know any more.
        let _ = self.join();
    }
}

/// In which order: blocks of what the guest uses, and then the rest, but what is left out.
fn order(pages: &Pages, left_out: &Own, bytes: u64) -> Vec<Range<u64>> {
    let small = Own { ranges: pages.own.without(left_out).collect() };
    let all = Own { ranges: Own::of_all(bytes).without(left_out).collect() };
    let first = all.within(&small.and(pages.seen.clone()).blocks());
    let then: Vec<_> = all.without(&first).collect();
    first.ranges.into_iter().chain(then).collect()
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_LEN;
    use super::super::tests::TestMap;
    use super::*;
    use std::os::unix::fs::FileExt;

    fn blocks(ranges: &[Range<u64>]) -> Own {
        Own { ranges: ranges.iter().map(|blocks| blocks.start * BLOCK..blocks.end * BLOCK).collect() }
    }

    /// What is copied and into what, so many blocks long; so many have something in them.
    fn files(long: u64, full: usize) -> (File, File) {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        for file in [&source, &target] {
            file.set_len(long * BLOCK).unwrap();
        }
        source.write_all_at(&vec![1; full << 16], 0).unwrap();
        (source, target)
    }

    #[test]
    fn first_comes_what_the_guest_uses_and_nothing_is_forgotten() {
        let page = |number: u64| number * PAGE..(number + 1) * PAGE;
        let pages = Pages {
            own: Own { ranges: vec![page(5), 2 * BLOCK..20 * BLOCK, page(33 * 16 + 2)] },
            seen: Own { ranges: vec![page(16), page(24 * 16)] },
        };
        let left_out = Own { ranges: pages.own.runs_of(LEAST) };
        let order = order(&pages, &left_out, 40 * BLOCK);
        assert_eq!(order, blocks(&[0..2, 24..25, 33..34, 20..24, 25..33, 34..40]).ranges);
    }

    /// Somebody takes over whole blocks of what is left; the rest of it is copied in the end, and what was given back since.
    #[test]
    fn what_is_left_is_taken_over_or_copied_in_the_end() {
        let (source, target) = files(40, 30);
        let thread = std::thread::spawn(|| Ok(vec![25 * BLOCK..40 * BLOCK, 10 * BLOCK + PAGE..20 * BLOCK]));
        let mut copy = BackingCopy {
            thread: Some(thread),
            ended: channel().1,
            end: Arc::default(),
            fate: Fate::Lasting,
            files: Some((source.try_clone().unwrap(), target.try_clone().unwrap())),
            left_out: Own::of_all(10 * BLOCK),
            left: Own::default(),
        };
        let behind = copy.hand_over().unwrap().unwrap();
        assert!(copy.end.load(Ordering::Relaxed));
        assert_eq!(behind.left.ranges, [10 * BLOCK + PAGE..20 * BLOCK, 25 * BLOCK..30 * BLOCK], "a hole is no work");
        let now = Own { ranges: std::iter::once(0..9 * BLOCK).chain(std::iter::once(15 * BLOCK..15 * BLOCK + PAGE)).collect() };
        let taken = behind.takes(&now);
        assert_eq!(taken.ranges, blocks(&[11..15, 16..20, 25..30]).ranges);
        assert_eq!(behind.blocks_but(&now, &taken).unwrap().ranges, blocks(&[9..11, 20..25]).ranges);
        copy.finish(&now, &taken).unwrap();
        let mut seen = vec![9; 40 << 16];
        target.read_exact_at(&mut seen, 0).unwrap();
        let copied = Own { ranges: vec![9 * BLOCK..10 * BLOCK, 10 * BLOCK + PAGE..11 * BLOCK, 15 * BLOCK..16 * BLOCK] };
        for (at, page) in (0..).step_by(PAGE_LEN).zip(seen.chunks(PAGE_LEN)) {
            let wanted = u8::from(copied.ranges.iter().any(|range| range.contains(&at)));
            assert!(page.iter().all(|byte| *byte == wanted), "{at:x}");
        }
    }

    /// As one that waits for a disk.
    #[test]
    fn who_does_not_end_in_time_is_waited_for_when_the_guest_runs_again() {
        let (source, target) = files(4, 4);
        let ((sender, ended), (disk, waits)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            let _hangs_up = sender;
            let _ = waits.recv();
            Ok(blocks(&[1..2, 2..3]).ranges)
        });
        let files = Some((source, target.try_clone().unwrap()));
        let (own, left) = (blocks(std::slice::from_ref(&(3..4))), Own::default());
        let mut copy =
            BackingCopy { thread: Some(thread), ended, end: Arc::default(), fate: Fate::Lasting, files, left_out: own.clone(), left };
        assert!(copy.hand_over().unwrap().is_none(), "it has not ended");
        drop(disk);
        copy.finish(&own, &Own::default()).unwrap();
        let mut seen = vec![9; 4 << 16];
        target.read_exact_at(&mut seen, 0).unwrap();
        let copied: Vec<u8> = seen.chunks(1 << 16).map(|block| block[0]).collect();
        assert_eq!(copied, [0, 1, 1, 0], "what it left, and nothing of the guest's own");
    }

    /// This very process is the hypervisor.
    #[test]
    fn only_what_lasts_goes_past_the_cache() {
        let (source, dir) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
        source.set_len(40 * BLOCK).unwrap();
        let map = TestMap::of(&source, 40 * BLOCK);
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), 40 * BLOCK).unwrap();
        for fate in [Fate::Lasting, Fate::Passing] {
            let path = dir.path().join(format!("{fate:?}"));
            let target = File::create_new(&path).unwrap();
            let copy = BackingCopy::begin(&memory, &target, fate, &Pages::default()).unwrap();
            assert_eq!(copy.lane(&target, &path).unwrap().is_some(), fate == Fate::Lasting, "tests need a file system with O_DIRECT");
        }
    }
}
