//! A command's stdin: bytes from the host into a pipe.
//!
//! Invariants: at most one window is held here; credit is granted only for bytes that went into the
//! pipe, or that nobody will ever read because the command closed its end.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use smolvm_proto::{ReceiveWindow, WindowError};

/// The host's end of stdin.
pub(crate) struct Input {
    pipe: Option<OwnedFd>,
    pending: VecDeque<u8>,
    window: ReceiveWindow,
    ended: bool,
    ready: bool,
}

impl Input {
    /// `pipe` does not block; without one everything is thrown away.
    pub(crate) fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, pending: VecDeque::new(), window: ReceiveWindow::default(), ended: false, ready: false }
    }

    /// The pipe, while there are bytes for it.
    pub(crate) fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// Notes what poll said about the pipe.
    pub(crate) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Takes bytes from the host; gives the credit that is due.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<Option<u32>, WindowError> {
        self.window.received(bytes.len())?;
        let written = if self.pending.is_empty() { self.write(bytes) } else { 0 };
        if self.pipe.is_none() {
            return Ok(self.window.consumed(bytes.len()));
        }
        self.pending.extend(&bytes[written..]);
        Ok(self.window.consumed(written))
    }

    /// The host will send no more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.close_when_done();
    }

    /// Writes what waits; gives the credit that is due.
    pub(crate) fn pump(&mut self) -> Option<u32> {
        if !std::mem::take(&mut self.ready) {
            return None;
        }
        let mut consumed = 0;
        while self.pipe.is_some() && !self.pending.is_empty() {
            // Split off, so that `write` may close the pipe.
            let pending = std::mem::take(&mut self.pending);
            let count = self.write(pending.as_slices().0);
            self.pending = pending;
            if self.pipe.is_none() {
                consumed += self.pending.len();
                self.pending.clear();
            } else if count == 0 {
                break;
            } else {
                self.pending.drain(..count);
                consumed += count;
            }
        }
        self.close_when_done();
        self.window.consumed(consumed)
    }

    /// Bytes the pipe took; closes it when nobody reads any more.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        match rustix::io::write(pipe, bytes) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    fn close_when_done(&mut self) {
        if self.ended && self.pending.is_empty() {
            self.pipe = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_left_does_not_stall_the_host() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(write));
        let mut credit = input.receive(&vec![0; 60_000]).unwrap().unwrap_or(0);
        credit += input.receive(&vec![0; 60_000]).unwrap().unwrap_or(0);
        assert!(input.wants().is_some());
        drop(read);
        input.set_ready(true);
        credit += input.pump().unwrap_or(0);
        for _ in 0..10 {
            credit += input.receive(&vec![0; 60_000]).unwrap().unwrap_or(0);
        }
        assert!(credit > 500_000, "{credit}");
        assert!(input.wants().is_none());
    }

    #[test]
    fn more_than_the_window_is_refused() {
        let (_read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut input = Input::new(Some(write));
        for _ in 0..8 {
            if input.receive(&vec![0; 64 * 1024]).is_err() {
                return;
            }
        }
        panic!("512 KiB fitted a window of 256 KiB and a pipe of 64");
    }
}
