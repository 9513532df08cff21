//! Ends processes by pidfd, many at once under one deadline.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Opens a handle on a process; `None` when there is none of that pid.
///
/// The caller proves the process's identity *after* this: the handle pins it, a check before would race.
pub fn open(pid: u32) -> std::io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // EINVAL: a thread, not a process, has that number now.
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends SIGKILL; a process that is gone already is no error.
pub fn kill(pidfd: &OwnedFd) -> std::io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until every process has ended (a zombie has), at most `timeout`; tells for each whether it did.
pub fn wait_all(pidfds: &[OwnedFd], timeout: Duration) -> std::io::Result<Vec<bool>> {
    let deadline = Instant::now() + timeout;
    let mut ended = vec![false; pidfds.len()];
    loop {
        let waiting: Vec<usize> = (0..pidfds.len()).filter(|i| !ended[*i]).collect();
        if waiting.is_empty() {
            return Ok(ended);
        }
        let mut set: Vec<PollFd<'_>> = waiting.iter().map(|i| PollFd::from_borrowed_fd(pidfds[*i].as_fd(), PollFlags::IN)).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut set, Some(&time)) {
            Ok(0) => return Ok(ended),
            Ok(_) => {
                for (slot, fd) in waiting.iter().zip(&set) {
                    ended[*slot] = !fd.revents().is_empty();
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
