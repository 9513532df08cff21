//! Signals as bytes on a pipe.
//!
//! ```text
//!   kernel ──► handler (signal-hook) ──► one thread ──► pipe ──► whoever polls its read end
//! ```
//!
//! Each byte is the signal's number. A signal that was ignored when smolvm started (`nohup`, a job
//! in the background of a plain shell) stays ignored: whoever did that meant it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The pipe.
#[derive(Debug, Clone)]
pub(crate) struct SignalPipe {
    read: Arc<OwnedFd>,
    write: Arc<OwnedFd>,
}

impl SignalPipe {
    /// Catches what asks a command to end.
    pub(crate) fn ending() -> io::Result<Self> {
        Self::catch(&[SIGINT, SIGTERM, SIGHUP])
    }

    /// Catches Ctrl-C alone.
    pub(crate) fn interrupt() -> io::Result<Self> {
        Self::catch(&[SIGINT])
    }

    fn catch(wanted: &[i32]) -> io::Result<Self> {
        // Not blocking: should nobody read for 64 KiB of signals, the rest say nothing new.
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let pipe = Self { read: Arc::new(read), write: Arc::new(write) };
        let ignored = ignored();
        let mut signals = Signals::new(wanted.iter().filter(|signal| ignored >> (**signal - 1) & 1 == 0))?;
        let writer = pipe.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                writer.push(signal);
            }
        });
        Ok(pipe)
    }

    /// The end to poll and read.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Makes the reader see a signal that the kernel did not send.
    pub(crate) fn push(&self, signal: i32) {
        let byte = u8::try_from(signal).unwrap_or(0);
        // Full, it holds more signals than anybody counts.
        let _ = retry_on_intr(|| rustix::io::write(&*self.write, &[byte]));
    }

    /// Ends this process through `end` as soon as a signal comes.
    pub(crate) fn then(self, end: impl FnOnce() + Send + 'static) {
        thread::spawn(move || {
            use rustix::event::{PollFd, PollFlags, poll};
            while poll(&mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)], None).is_err() {}
            end();
        });
    }
}

/// The set of ignored signals as the kernel shows it; bit 0 is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}
