//! Brings a file to the disk while it is still written, so that whoever syncs it waits for its end only.
//!
//! Little is on its way at a time: what others have for the same disk, a guest that writes out its files among them, does not
//! queue behind all of a large file. A disk that is slow makes the writer slow.

#![allow(unsafe_code, reason = "sync_file_range has no wrapper")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::io::Errno;

/// Bytes whose way to the disk begins together.
const PIECE: u64 = 4 << 20;
/// Pieces that are on their way.
const UNDER_WAY: usize = 4;

/// What others say to whoever writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// All of it goes to the disk while it is written.
    Go,
    /// Nothing is brought to the disk: somebody else waits for that.
    KeepFromDisk,
    /// Nothing is written at all: somebody else writes to the same file.
    Wait,
    /// Nobody wants it any more. It is the last word.
    Stop,
}

/// The word that counts.
#[derive(Debug)]
pub(crate) struct Pace {
    word: Mutex<Word>,
    told: Condvar,
    /// Whether somebody has come to where it waits: a test that nothing happens must know when to look.
    #[cfg(test)]
    pub(crate) waits: std::sync::atomic::AtomicBool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            word: Mutex::new(Word::Go),
            told: Condvar::new(),
            #[cfg(test)]
            waits: std::sync::atomic::AtomicBool::default(),
        }
    }
}

impl Pace {
    pub(crate) fn tell(&self, word: Word) {
        let mut said = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != Word::Stop {
            *said = word;
        }
        self.told.notify_all();
    }

    /// Waits while it is to wait; an error as soon as nobody wants it.
    pub(crate) fn go_on(&self) -> Result<()> {
        let said = self.word.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |said: &mut Word| {
            let waits = *said == Word::Wait;
            #[cfg(test)]
            self.waits.store(waits, std::sync::atomic::Ordering::SeqCst);
            waits
        };
        let said = self.told.wait_while(said, waits).unwrap_or_else(PoisonError::into_inner);
        if *said == Word::Stop { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    fn keeps_from_disk(&self) -> bool {
        *self.word.lock().unwrap_or_else(PoisonError::into_inner) != Word::Go
    }
}

/// What was written, and how far that has come.
#[derive(Debug)]
pub(crate) struct WriteBehind<'a> {
    file: &'a File,
    /// From where to where something was written, and how much.
    waiting: Option<(u64, u64, u64)>,
    under_way: VecDeque<(u64, u64)>,
    pace: &'a Pace,
}

impl<'a> WriteBehind<'a> {
    pub(crate) fn of(file: &'a File, pace: &'a Pace) -> Self {
        Self { file, waiting: None, under_way: VecDeque::new(), pace }
    }

    /// So much more was written, further back than most before.
    pub(crate) fn wrote(&mut self, start: u64, end: u64) -> Result<()> {
        let (first, last, before) = self.waiting.unwrap_or((start, end, 0));
        let written = before + end.saturating_sub(start);
        let (start, end) = (start.min(first), end.max(last));
        if written < PIECE || self.pace.keeps_from_disk() {
            self.waiting = Some((start, end, written));
            return Ok(());
        }
        self.waiting = None;
        // More than one piece, if it was held back for a while.
        let step = usize::try_from(PIECE).unwrap_or(usize::MAX);
        (start..end).step_by(step).try_for_each(|at| self.bring(at, end.min(at + PIECE)))
    }

    fn bring(&mut self, start: u64, end: u64) -> Result<()> {
        if self.under_way.len() >= UNDER_WAY
            && let Some((start, end)) = self.under_way.pop_front()
        {
            sync_range(self.file, start, end, libc::SYNC_FILE_RANGE_WAIT_BEFORE)?;
        }
        self.under_way.push_back((start, end));
        sync_range(self.file, start, end, libc::SYNC_FILE_RANGE_WRITE)
    }
}

/// An error is one of the disk's, which a later sync need not tell again. Where there is no such call, nothing was begun.
fn sync_range(file: &File, start: u64, end: u64, flags: libc::c_uint) -> Result<()> {
    let place = |at: u64| libc::off64_t::try_from(at).unwrap_or(libc::off64_t::MAX);
    // SAFETY: numbers only, and a descriptor that is open.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), place(start), place(end.saturating_sub(start)), flags) } == 0 {
        return Ok(());
    }
    let error = Error::last_os_error();
    match Errno::from_io_error(&error) {
        Some(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::SPIPE) => Ok(()),
        _ => Err(error),
    }
}
