//! The line to the host: attach, frames in, frames out.
//!
//! ```text
//!              garbage                      request found
//!   Frames ───────────────► Scanning ───────────────────────► Frames, all streams dropped
//! ```
//!
//! It starts in Scanning: on a serial line anything may lie before the first request.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use smolvm_proto::{AttachRequest, Decoder, FrameRef, RequestScanner};

use super::outbox::Outbox;

/// Reads per round: one is a page on a virtio port, and commands must not starve while the host sends.
const READS: usize = 32;

/// What a port gives per read at most.
const PAGE: usize = 4096;

/// What came in.
pub(crate) enum Incoming<'a> {
    /// A host side takes over the line.
    Attach(AttachRequest),
    /// A frame of the host side that is attached.
    Frame(FrameRef<'a>),
}

/// The line's state.
pub(crate) struct Link {
    line: OwnedFd,
    decoder: Decoder,
    scanner: Option<RequestScanner>,
    /// Where frames to the host are put.
    pub(crate) outbox: Outbox,
    hung_up: bool,
}

impl Link {
    /// Takes a line that does not block.
    pub(crate) fn new(line: OwnedFd) -> Self {
        Self { line, decoder: Decoder::new(), scanner: Some(RequestScanner::new()), outbox: Outbox::new(), hung_up: false }
    }

    /// For poll.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Whether nobody is at the other end.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Whether a host side has taken the line.
    pub(crate) fn is_attached(&self) -> bool {
        self.scanner.is_none()
    }

    /// Reads what is there. False: the other end is closed.
    pub(crate) fn receive(&mut self) -> Result<bool, Errno> {
        for _ in 0..READS {
            let space = self.decoder.space();
            if space.is_empty() {
                break;
            }
            match rustix::io::read(&self.line, &mut *space) {
                // The port says it with an error when the host's end closes between poll and read.
                Ok(0) | Err(Errno::PIPE | Errno::NODEV | Errno::CONNRESET) => return Ok(false),
                Ok(count) => {
                    self.decoder.filled(count);
                    if count < PAGE {
                        // Asking again, only to hear that there is no more, would cost a system call.
                        break;
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next thing that came in.
    pub(crate) fn next(&mut self) -> Option<Incoming<'_>> {
        if self.scanner.is_none() && self.decoder.next_is_garbage() {
            self.scanner = Some(RequestScanner::new());
        }
        if let Some(scanner) = &mut self.scanner {
            let bytes = self.decoder.take_rest();
            let (request, rest) = scanner.push(&bytes)?;
            self.scanner = None;
            self.decoder.push(rest);
            self.outbox.clear();
            return Some(Incoming::Attach(request));
        }
        self.decoder.next_ref().ok().flatten().map(Incoming::Frame)
    }

    /// Sends what can be sent.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        match self.outbox.flush(&self.line) {
            Err(Errno::PIPE | Errno::NODEV | Errno::CONNRESET) => {
                self.hang_up();
                Ok(())
            }
            other => other,
        }
    }

    /// Notes that the host's end closed: half a frame of it will never be whole.
    pub(crate) fn hang_up(&mut self) {
        if !self.hung_up {
            self.hung_up = true;
            self.decoder.clear();
            self.scanner = Some(RequestScanner::new());
        }
    }

    /// Looks again after a hang-up: the caller polls the line once more.
    pub(crate) fn look_again(&mut self) {
        self.hung_up = false;
    }
}
