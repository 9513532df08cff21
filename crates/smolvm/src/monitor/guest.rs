//! The link to the agent.

use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_proto::{AttachError, AttachRequest, Decoder, Frame, FrameError, HostMessage, Nonce, ReplyScanner, encode};

use super::outgoing::Outgoing;

/// Once so much waits for the guest, clients with streams are not read until it has drained.
const ENOUGH: usize = 1 << 20;
/// No more waits for any guest: clients that feed it stop at [`ENOUGH`], all together 4 MiB later.
const MOST: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct Guest {
    pub(super) socket: UnixStream,
    pub(super) out: Outgoing,
    /// What is for a guest that is at rest: it gets that when it goes on.
    held: Option<Vec<u8>>,
    phase: Phase,
    /// That the link is closed, until somebody was told.
    loss: Option<Loss>,
}

/// How a link was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// By the other end, or for what came from there.
    Ended,
    /// Because nothing is taken there.
    GivenUp,
}

#[derive(Debug)]
enum Phase {
    Attaching(ReplyScanner),
    Attached(Decoder),
    /// The hypervisor closed its end, or the guest broke the protocol: nothing is read or kept any more.
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
        Self { socket, out, held: None, phase: Phase::Attaching(ReplyScanner::new(nonce)), loss: None }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Gives the link up, and with it what still waits for the guest.
    fn close(&mut self, loss: Loss) {
        if !self.is_closed() {
            self.loss = Some(loss);
        }
        self.phase = Phase::Closed;
        self.out = Outgoing::default();
        self.held = None;
    }

    /// Tells once that the link is closed, for whoever waits for something to come out of it.
    pub(super) fn take_loss(&mut self) -> Option<Loss> {
        self.loss.take()
    }

    /// Reads once what is there; a link that fails is closed.
    pub(super) fn read(&mut self) -> Result<Vec<Frame>, LinkError> {
        if self.is_closed() {
            return Ok(Vec::new());
        }
        let read = self.read_open();
        if read.is_err() {
            self.close(Loss::Ended);
        }
        read
    }

    fn read_open(&mut self) -> Result<Vec<Frame>, LinkError> {
        let mut chunk = [0; 16 << 10];
        let count = match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => 0,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(_) => 0,
        };
        if count == 0 {
            self.close(Loss::Ended);
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

    /// Whether so much waits for the guest that nothing new is begun.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() + self.held.as_ref().map_or(0, Vec::len) >= ENOUGH
    }

    /// From now on frames wait here: the guest was told to come to rest, and what is sent behind that would lie half way
    /// in a copy of it.
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// The guest goes on, and gets what waited for it.
    pub(super) fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.out.buffer().extend_from_slice(&held);
        }
    }

    pub(super) fn queue(&mut self, frame: &Frame) {
        if !self.is_closed() {
            frame.encode_into(self.held.as_mut().unwrap_or_else(|| self.out.buffer()));
        }
    }

    /// Says something to the agent itself; that is not held back.
    ///
    /// A link that takes nothing whatever happens is given up: what its other end makes this one say would grow without end.
    pub(super) fn tell(&mut self, message: &HostMessage) {
        if self.out.len() >= MOST {
            return self.close(Loss::GivenUp);
        }
        // Our own messages are small and plain: they always encode.
        if let Ok(payload) = encode(message)
            && !self.is_closed()
        {
            Frame::control(payload).encode_into(self.out.buffer());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use smolvm_proto::{Channel, RequestScanner};

    use super::*;

    /// A link whose agent has answered, and the guest's end.
    fn attached() -> (Guest, UnixStream) {
        let (host, mut agent) = UnixStream::pair().unwrap();
        let mut guest = Guest::new(host, Nonce([7; 16]));
        let (request, _) = RequestScanner::new().push(guest.out.buffer()).unwrap();
        guest.out = Outgoing::default();
        agent.write_all(&request.answer().to_bytes()).unwrap();
        assert!(guest.read().unwrap().is_empty() && !guest.is_closed());
        (guest, agent)
    }

    #[test]
    fn a_guest_that_sends_garbage_is_heard_no_more() {
        let (mut guest, mut agent) = attached();
        let mut good = Vec::new();
        Frame::data(1, Channel::Stdout, b"x".to_vec()).encode_into(&mut good);
        agent.write_all(&good).unwrap();
        assert_eq!(guest.read().unwrap().len(), 1);
        guest.queue(&Frame::reset(1));
        agent.write_all(&[0xee; 4096]).unwrap();
        assert!(guest.read().is_err() && guest.is_closed());
        assert!(guest.out.is_empty(), "what waited for it is gone");
        for _ in 0..4 {
            agent.write_all(&good).unwrap();
            assert!(guest.read().unwrap().is_empty());
        }
        guest.queue(&Frame::reset(2));
        guest.tell(&HostMessage::Shutdown { grace_ms: 1 });
        assert!(guest.out.is_empty() && !guest.is_full());
    }

    #[test]
    fn a_guest_at_rest_is_sent_nothing_but_the_word_to_go_on() {
        let (mut guest, _agent) = attached();
        guest.tell(&HostMessage::Freeze { sync: false, seq: 1 });
        guest.hold();
        let before = guest.out.len();
        guest.queue(&Frame::reset(1));
        guest.hold();
        guest.queue(&Frame::reset(2));
        assert_eq!(guest.out.len(), before);
        while !guest.is_full() {
            guest.queue(&Frame::data(1, Channel::Stdin, vec![0; 60_000]));
        }
        guest.out = Outgoing::default();
        guest.release();
        let mut decoder = Decoder::new();
        decoder.push(guest.out.buffer());
        let streams: Vec<u32> = std::iter::from_fn(|| decoder.next_frame().unwrap()).map(|frame| frame.stream).take(3).collect();
        assert_eq!(streams, [1, 2, 1], "what was held comes in order");
    }

    #[test]
    fn a_link_that_ends_keeps_nothing() {
        let (mut guest, agent) = attached();
        guest.queue(&Frame::reset(1));
        drop(agent);
        assert!(guest.read().unwrap().is_empty() && guest.is_closed() && guest.out.is_empty());
        assert_eq!([guest.take_loss(), guest.take_loss()], [Some(Loss::Ended), None]);
    }
}
