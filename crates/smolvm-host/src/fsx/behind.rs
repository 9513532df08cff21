//! Brings a file to the disk while it is still written, so that whoever syncs it waits for its end only.
//!
//! Little is on its way at a time, and less where the disk is slow: what others have for it, a guest that writes out its files among them, does not
//! queue behind all of a large file. A disk that is slow makes the writer slow.

#![allow(unsafe_code, reason = "sync_file_range has no wrapper")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Bytes whose way to the disk begins together.
const PIECE: u64 = 1 << 20;
/// So many pieces are on their way at most, and at first.
const MOST: usize = 16;
const AT_FIRST: usize = 4;
/// What a disk that is quick takes for a piece while others wait; 250 MB/s.
const QUICK: Duration = Duration::from_millis(4);

/// What was written, and how far that has come.
#[derive(Debug)]
pub(crate) struct WriteBehind<'a> {
    file: &'a File,
    /// From where to where something was written, and how much.
    waiting: Option<(u64, u64, u64)>,
    under_way: VecDeque<(u64, u64)>,
    most: usize,
    end: Option<&'a AtomicBool>,
}

impl<'a> WriteBehind<'a> {
    pub(crate) fn of(file: &'a File) -> Self {
        Self { file, waiting: None, under_way: VecDeque::new(), most: AT_FIRST, end: None }
    }

    /// The same, which neither waits nor begins anything once `end` says so: somebody waits for who writes.
    pub(crate) fn until(file: &'a File, end: &'a AtomicBool) -> Self {
        Self { end: Some(end), ..Self::of(file) }
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| end.load(Ordering::Relaxed))
    }

    /// So much more was written, in any place.
    pub(crate) fn wrote(&mut self, start: u64, end: u64) -> Result<()> {
        let (first, last, before) = self.waiting.unwrap_or((start, end, 0));
        let written = before + end.saturating_sub(start);
        let (start, end) = (start.min(first), end.max(last));
        if written < PIECE {
            self.waiting = Some((start, end, written));
            return Ok(());
        }
        self.waiting = None;
        while self.under_way.len() >= self.most
            && !self.is_over()
            && let Some((start, end)) = self.under_way.pop_front()
        {
            let began = Instant::now();
            sync_range(self.file, start, end, libc::SYNC_FILE_RANGE_WAIT_BEFORE)?;
            self.most = most_after(began.elapsed(), self.most);
        }
        if self.is_over() {
            return Ok(());
        }
        self.under_way.push_back((start, end));
        // Where there are gaps, nothing else is written.
        sync_range(self.file, start, end, libc::SYNC_FILE_RANGE_WRITE)
    }
}

/// How many pieces may be on their way when so long was waited for one, and so many may have been: one more for a disk that is quick, half as many for
/// one that is not.
fn most_after(waited: Duration, most: usize) -> usize {
    if waited <= QUICK { (most + 1).min(MOST) } else { (most / 2).max(1) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_disk_gets_more_at_a_time_and_a_slow_one_less() {
        let after = |waits: &[u64]| waits.iter().fold(AT_FIRST, |most, waited| most_after(Duration::from_millis(*waited), most));
        assert_eq!([after(&[]), after(&[0]), after(&[4; 40]), after(&[5]), after(&[5; 40])], [4, 5, 16, 2, 1]);
        assert_eq!(after(&[5, 5, 5, 1, 1]), 3, "it can become quick again");
    }

    #[test]
    fn who_is_wanted_elsewhere_waits_for_no_disk() {
        let file = tempfile::tempfile().unwrap();
        let end = AtomicBool::new(false);
        let mut disk = WriteBehind::until(&file, &end);
        disk.wrote(0, PIECE).unwrap();
        assert_eq!(disk.under_way, [(0, PIECE)]);
        end.store(true, Ordering::Relaxed);
        for at in 1..100 {
            disk.wrote(at * PIECE, (at + 1) * PIECE).unwrap();
        }
        assert_eq!(disk.under_way, [(0, PIECE)], "nothing was waited for, and nothing begun");
    }
}
