//! What is behind a guest's own pages, on its way into a copy while other things are done.
//!
//! ```text
//!   before        │ file │ ─── own, and much ─── │ file │ own │ file │
//!   copied           ▲                               ▲      ▲     ▲        own pages are written over it
//!   when it rests           given back since: ▲
//! ```

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle, scope};

use super::counted::Counted;
use super::large::Lane;
use super::{Backing, Fate, GuestMemory, Own};
use crate::fsx::{Pace, Word, copy_data, copy_data_of, copy_data_to_disk};

/// Pages without a gap for which copying what is behind them would take longer than going around them.
const LEAST: u64 = 512 << 10;

/// A thread that copies; it ends with this, whatever it has done by then.
#[derive(Debug)]
pub struct BackingCopy {
    thread: Option<JoinHandle<Result<()>>>,
    pace: Arc<Pace>,
    /// From where and into what, where there is anything.
    files: Option<(File, File)>,
    /// What the guest had to itself before, so that nothing of it was copied.
    left_out: Own,
}

impl BackingCopy {
    /// Begins to copy it into an empty file, which has the memory's length by then. What is to last is brought to the disk, too.
    ///
    /// Of what is to last nothing is copied for now where the guest has much to itself already, `own`.
    pub fn begin(memory: &GuestMemory, target: &File, fate: Fate, own: &Own) -> Result<Self> {
        // Where a copy passes, its file system mostly shares blocks, and many small pieces cost more than the whole.
        let ranges = if fate == Fate::Lasting { own.runs_of(LEAST) } else { Vec::new() };
        let (pace, left_out) = (Arc::new(Pace::default()), Own { ranges });
        target.set_len(memory.bytes)?;
        let Backing::File(source) = &memory.backing else { return Ok(Self { thread: None, pace, files: None, left_out }) };
        let (from, to, told, kept) = (source.try_clone()?, target.try_clone()?, Arc::clone(&pace), left_out.ranges.clone());
        let copy = move |from: &File, to: &File, kept: &[Range<u64>], told: &Pace, bytes| match fate {
            Fate::Passing => copy_data(from, to, bytes),
            Fate::Lasting => copy_data_to_disk(from, to, kept.iter().cloned(), told),
        };
        let bytes = memory.bytes;
        let thread = match Builder::new().spawn(move || copy(&from, &to, &kept, &told, bytes)) {
            Ok(thread) => Some(thread),
            // Where no thread can be had, other things are done afterwards.
            Err(_) => copy(source, target, &left_out.ranges, &pace, bytes).map(|()| None)?,
        };
        Ok(Self { thread, pace, files: Some((source.try_clone()?, target.try_clone()?)), left_out })
    }

    /// A way past the cache for what the guest has to itself where nothing is copied. `path` is the target's.
    pub fn lane(&self, target: &File, path: &Path) -> Result<Option<Lane>> {
        Lane::of(&self.left_out, target, path)
    }

    /// What went wrong so far, if something did.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) { self.join() } else { Ok(()) }
    }

    /// The disk is wanted by others: what is copied is kept from it for now.
    pub fn keep_from_disk(&self) {
        self.pace.tell(Word::KeepFromDisk);
    }

    /// The file is wanted by others, and who writes through its cache keeps them waiting: nothing is copied for now.
    pub fn wait(&self) {
        self.pace.tell(Word::Wait);
    }

    /// Nobody is in its way.
    pub fn go_on(&self) {
        self.pace.tell(Word::Go);
    }

    /// Waits for its end, and copies what the guest had to itself and has not any more, now that it stands still.
    pub fn finish(mut self, now: &Own) -> Result<()> {
        self.join()?;
        let Some((source, target)) = &self.files else { return Ok(()) };
        self.left_out.without(now).try_for_each(|range| copy_data_of(source, target, range))
    }

    /// The same. Meanwhile the digests of those blocks are counted that are in the copy as they are behind: where the guest has no page to itself.
    pub(super) fn finish_and_count(self, now: &Own) -> Result<Counted> {
        let Some(source) = self.files.as_ref().map(|(source, _)| source.try_clone()).transpose()? else {
            return self.finish(now).map(|()| Counted::default());
        };
        scope(|scope| {
            let counting = Builder::new().spawn_scoped(scope, || Counted::behind(&source, now));
            self.finish(now)?;
            // Where no thread can be had, they are counted later, in the file.
            counting.map_or_else(|_| Ok(Counted::default()), |counts| counts.join().unwrap_or_else(|_| Err(Error::other("a thread ended"))))
        })
    }

    fn join(&mut self) -> Result<()> {
        self.go_on();
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(Error::other("a thread ended"))))
    }
}

impl Drop for BackingCopy {
    fn drop(&mut self) {
        self.pace.tell(Word::Stop);
        // Nobody wants to know any more.
        let _ = self.join();
    }
}
