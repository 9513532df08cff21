//! Signals as bytes on a pipe.
//!
//! ```text
//!   kernel ──► handler (signal-hook) ──► pipe ──► whoever polls its read end
//! ```
//!
//! Each byte is the signal's number. The handler writes it, so that an `exec` starts
//! no thread that does nothing else. A signal that was ignored when smolvm started (`nohup`, a job
//! in the background of a plain shell) stays ignored: whoever did that meant it.

#![allow(unsafe_code, reason = "what runs in a signal handler is the caller's to answer for")]

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;

/// The pipe.
#[derive(Debug, Clone)]
pub(crate) struct SignalPipe {
    read: Arc<OwnedFd>,
    write: Arc<OwnedFd>,
    came: Arc<AtomicBool>,
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
        let pipe = Self { read: Arc::new(read), write: Arc::new(write), came: Arc::default() };
        let ignored = ignored();
        for signal in wanted.iter().copied().filter(|signal| ignored >> (signal - 1) & 1 == 0) {
            let writer = pipe.clone();
            // SAFETY: `push` is one atomic store and one write(2) of a byte on the stack, made without the C library: it
            // allocates nothing, takes no lock, leaves errno alone and cannot panic. The closure owns its share of the pipe for the life of the process.
            unsafe { low_level::register(signal, move || writer.push(signal)) }?;
        }
        Ok(pipe)
    }

    /// The end to poll and read.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Whether a signal came and somebody has read it since.
    pub(crate) fn passed_on(&self) -> bool {
        self.came.load(Ordering::Relaxed) && rustix::io::ioctl_fionread(self.fd()).is_ok_and(|unread| unread == 0)
    }

    /// Makes the reader see a signal that the kernel did not send.
    pub(crate) fn push(&self, signal: i32) {
        self.came.store(true, Ordering::Relaxed);
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
    // One read gives it whole; the file has 1.5 KiB.
    let mut bytes = [0; 4096];
    let count = std::fs::File::open("/proc/self/status").and_then(|mut file| file.read(&mut bytes)).unwrap_or_default();
    let status = String::from_utf8_lossy(&bytes[..count]);
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    field.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}
