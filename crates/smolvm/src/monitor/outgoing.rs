//! Bytes waiting for a socket that takes them when it likes.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// A bounded queue; whoever fills it asks [`Outgoing::len`] first.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

/// Capacity that is given back to the heap once the queue is empty.
const KEEP: usize = 64 << 10;

impl Outgoing {
    /// Bytes not sent yet.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Sends what the socket takes now; `false` when the other end is gone.
    pub(super) fn flush(&mut self, socket: impl AsFd) -> bool {
        while self.sent < self.bytes.len() {
            match send(&socket, &self.bytes[self.sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            self.bytes.shrink_to(KEEP);
        } else if self.sent > KEEP {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        true
    }
}
