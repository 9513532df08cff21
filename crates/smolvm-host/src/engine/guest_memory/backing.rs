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
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle};

use super::{Backing, Fate, GuestMemory, Own};
use crate::fsx::{Pace, copy_data_around, copy_data_of, copy_data_to_disk};

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
    /// Where the guest has much to itself already, `own`, nothing is copied for now.
    pub fn begin(memory: &GuestMemory, target: &File, fate: Fate, own: &Own) -> Result<Self> {
        let (pace, left_out) = (Arc::new(Pace::default()), Own { ranges: own.runs_of(LEAST) });
        target.set_len(memory.bytes)?;
        let Backing::File(source) = &memory.backing else { return Ok(Self { thread: None, pace, files: None, left_out }) };
        let (from, to, told, kept) = (source.try_clone()?, target.try_clone()?, Arc::clone(&pace), left_out.ranges.clone());
        let thread = match Builder::new().spawn(move || copy(&from, &to, &kept, fate, &told)) {
            Ok(thread) => Some(thread),
            // Where no thread can be had, other things are done afterwards.
            Err(_) => copy(source, target, &left_out.ranges, fate, &pace).map(|()| None)?,
        };
        Ok(Self { thread, pace, files: Some((source.try_clone()?, target.try_clone()?)), left_out })
    }

    /// Whether the disk is wanted by others from now on.
    pub fn make_way(&self, others: bool) {
        self.pace.slowly.store(others, Ordering::Relaxed);
    }

    /// Waits for its end, and copies what the guest had to itself and has not any more, now that it stands still.
    pub fn finish(mut self, now: &Own) -> Result<()> {
        self.join()?;
        let Some((source, target)) = &self.files else { return Ok(()) };
        self.left_out.without(now).try_for_each(|range| copy_data_of(source, target, range))
    }

    fn join(&mut self) -> Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(Error::other("a thread ended"))))
    }
}

fn copy(source: &File, target: &File, kept: &[Range<u64>], fate: Fate, pace: &Pace) -> Result<()> {
    match fate {
        Fate::Passing => copy_data_around(source, target, kept.iter().cloned(), &pace.stop),
        Fate::Lasting => copy_data_to_disk(source, target, kept.iter().cloned(), pace),
    }
}

impl Drop for BackingCopy {
    fn drop(&mut self) {
        self.pace.stop.store(true, Ordering::Relaxed);
        // Nobody wants to know any more.
        let _ = self.join();
    }
}
