//! A command's stdout or stderr: bytes out of a pipe to the host.
//!
//! Invariant: no byte is read from the pipe that the host has not granted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use smolvm_proto::{Channel, Frame, SendWindow, WindowError};

use super::outbox::Outbox;

/// Whether the main process may still write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    Alive,
    Ended,
}

/// The guest's end of one channel.
pub(crate) struct Output {
    channel: Channel,
    pipe: Option<OwnedFd>,
    window: SendWindow,
    /// Whether the pipe has something to tell: bytes or its end.
    ready: bool,
    dry: bool,
}

impl Output {
    /// `pipe` does not block.
    pub(crate) fn new(channel: Channel, pipe: OwnedFd) -> Self {
        Self { channel, pipe: Some(pipe), window: SendWindow::default(), ready: false, dry: false }
    }

    /// The pipe, while the host wants more of it.
    pub(crate) fn wants(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| self.window.available() > 0).map(AsFd::as_fd)
    }

    /// Notes what poll said about the pipe.
    pub(crate) fn set_ready(&mut self, ready: bool) {
        self.ready |= ready;
    }

    /// Whether the end of the channel was sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.pipe.is_none()
    }

    /// Whether nothing is left in the pipe, as far as was seen; a pipe that may not be read is asked.
    pub(crate) fn is_dry(&self) -> bool {
        match &self.pipe {
            None => true,
            Some(pipe) => self.dry || rustix::io::ioctl_fionread(pipe).is_ok_and(|waiting| waiting == 0),
        }
    }

    /// Takes credit from the host.
    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), WindowError> {
        self.window.grant(bytes)
    }

    /// Moves bytes until the pipe is dry, the window closed or the outbox full.
    ///
    /// While the writer is alive, a short read is taken for all there is: poll will tell of more.
    /// Once it has ended, everything must be taken now.
    pub(crate) fn pump(&mut self, stream: u32, outbox: &mut Outbox, writer: Writer) {
        while let Some(pipe) = self.pipe.as_ref().filter(|_| self.ready) {
            let most = self.window.available().min(smolvm_proto::MAX_PAYLOAD);
            if most == 0 || !outbox.takes_data() {
                self.dry = false;
                return;
            }
            match outbox.fill(pipe, stream, self.channel.flags(), most) {
                Ok(0) => {
                    outbox.push(Frame::eof(stream, self.channel).as_ref());
                    self.pipe = None;
                }
                Ok(count) => {
                    self.window.take(count);
                    if count < most && writer == Writer::Alive {
                        self.ready = false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.ready = false;
                    self.dry = true;
                }
            }
        }
    }

    /// Gives up the channel; the pipe, if somebody may still write to it.
    pub(crate) fn into_pipe(self) -> Option<OwnedFd> {
        self.pipe
    }
}
