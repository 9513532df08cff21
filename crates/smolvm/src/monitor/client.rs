//! One local client on the monitor's socket.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_proto::{AttachReply, Decoder, Frame, FrameError, RequestScanner};

use super::outgoing::Outgoing;
use super::relay::ClientId;

/// Bytes that may wait for a client; more than the windows of many streams, so only one that stopped
/// reading while it opens ever more streams reaches it.
const MAX_WAITING: usize = 32 << 20;

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) socket: UnixStream,
    pub(super) out: Outgoing,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Greeting(RequestScanner),
    Attached(Decoder),
}

/// What reading from a client gave.
#[derive(Debug)]
pub(super) enum Heard {
    /// These frames, perhaps none.
    Frames(Vec<Frame>),
    /// It left, or broke the protocol.
    Gone,
}

impl Client {
    pub(super) fn new(id: ClientId, socket: UnixStream) -> Self {
        Self { id, socket, out: Outgoing::default(), phase: Phase::Greeting(RequestScanner::new()) }
    }

    /// Reads once what is there.
    pub(super) fn read(&mut self) -> Heard {
        let mut chunk = [0; 16 << 10];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return Heard::Gone,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Heard::Frames(Vec::new()),
            Err(_) => return Heard::Gone,
        };
        self.take(&chunk[..count]).map_or(Heard::Gone, Heard::Frames)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let rest = match &mut self.phase {
            Phase::Attached(_) => bytes,
            Phase::Greeting(scanner) => {
                let Some((request, rest)) = scanner.push(bytes) else { return Ok(Vec::new()) };
                let reply: AttachReply = request.answer();
                self.out.buffer().extend_from_slice(&reply.to_bytes());
                self.phase = Phase::Attached(Decoder::new());
                rest
            }
        };
        let mut frames = Vec::new();
        if let Phase::Attached(decoder) = &mut self.phase {
            decoder.push(rest);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// Queues a frame; `false` when the client has let too much pile up.
    pub(super) fn queue(&mut self, frame: &Frame) -> bool {
        frame.encode_into(self.out.buffer());
        self.out.len() <= MAX_WAITING
    }
}
