//! The link to the agent.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_proto::{AttachError, AttachRequest, Decoder, Frame, FrameError, HostMessage, Nonce, ReplyScanner, encode};

use super::outgoing::Outgoing;

/// Once so much waits for the guest, clients are not read until it has drained.
pub(super) const ENOUGH: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Guest {
    pub(super) socket: UnixStream,
    pub(super) out: Outgoing,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Attaching(ReplyScanner),
    Attached(Decoder),
    /// The hypervisor closed its end; its pidfd says the rest.
    Closed,
}

/// Why the link cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The agent speaks another protocol.
    #[error("the agent in the guest speaks another protocol")]
    Generation(#[from] AttachError),
    /// The guest sent something that is no frame.
    #[error("the guest broke the protocol of the link")]
    Frame(#[from] FrameError),
}

impl Guest {
    /// Asks for the line at once; the bytes wait in the socket until the guest opens its port.
    pub(super) fn new(socket: UnixStream, nonce: Nonce) -> Self {
        let mut out = Outgoing::default();
        out.buffer().extend_from_slice(&AttachRequest::new(nonce).to_bytes());
        Self { socket, out, phase: Phase::Attaching(ReplyScanner::new(nonce)) }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Reads once what is there.
    pub(super) fn read(&mut self) -> Result<Vec<Frame>, LinkError> {
        let mut chunk = [0; 16 << 10];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => 0,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(_) => 0,
        };
        if count == 0 {
            self.phase = Phase::Closed;
            return Ok(Vec::new());
        }
        let mut bytes = &chunk[..count];
        if let Phase::Attaching(scanner) = &mut self.phase {
            let Some((reply, rest)) = scanner.push(bytes) else { return Ok(Vec::new()) };
            reply.generation()?;
            self.phase = Phase::Attached(Decoder::new());
            bytes = rest;
        }
        let mut frames = Vec::new();
        if let Phase::Attached(decoder) = &mut self.phase {
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    pub(super) fn queue(&mut self, frame: &Frame) {
        frame.encode_into(self.out.buffer());
    }

    pub(super) fn tell(&mut self, message: &HostMessage) {
        // Our own messages are small and plain: they always encode.
        if let Ok(payload) = encode(message) {
            self.queue(&Frame::control(payload));
        }
    }
}
