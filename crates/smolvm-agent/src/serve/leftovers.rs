//! Pipes that outlived their exec, kept open and emptied so that background processes live on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

/// More are closed, oldest first.
const MOST: usize = 128;

/// The pipes.
pub(crate) struct Leftovers {
    pipes: Vec<OwnedFd>,
    scratch: Vec<u8>,
}

impl Leftovers {
    pub(crate) fn new() -> Self {
        Self { pipes: Vec::new(), scratch: Vec::new() }
    }

    /// Keeps more pipes.
    pub(crate) fn extend(&mut self, pipes: impl Iterator<Item = OwnedFd>) {
        self.pipes.extend(pipes);
        let over = self.pipes.len().saturating_sub(MOST);
        self.pipes.drain(..over);
    }

    /// For poll.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(AsFd::as_fd)
    }

    /// Empties each pipe once and closes those that nobody writes to any more.
    pub(crate) fn drain(&mut self) {
        if self.pipes.is_empty() {
            return;
        }
        self.scratch.resize(64 * 1024, 0);
        let scratch = &mut self.scratch;
        self.pipes.retain(|pipe| !matches!(rustix::io::read(pipe, &mut scratch[..]), Ok(0) | Err(Errno::IO | Errno::BADF)));
    }
}
