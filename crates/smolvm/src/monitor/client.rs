//! One local client on the monitor's socket.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use smolvm_proto::{AttachReply, Decoder, Frame, FrameError, RequestScanner};

use super::outgoing::Outgoing;
use super::relay::ClientId;

/// Bytes that may wait for a client beside its streams: answers of the monitor, ends of commands.
const MAX_WAITING: usize = 1 << 20;
/// Bytes that may wait for each of its streams. A guest that keeps to its windows stays below even when
/// it sends every byte in a frame of its own: two windows of 256 KiB, 13 bytes each.
const MAX_WAITING_PER_STREAM: usize = 8 << 20;
/// How long it may take to say what it speaks.
const GREETING_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) socket: UnixStream,
    pub(super) out: Outgoing,
    /// Streams that the guest ended, and whose rest may still wait here.
    ended: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Greeting { scanner: RequestScanner, until: Instant },
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
        Self {
            id,
            socket,
            out: Outgoing::default(),
            ended: 0,
            phase: Phase::Greeting { scanner: RequestScanner::new(), until: Instant::now() + GREETING_WAIT },
        }
    }

    /// When it is dropped if it has not said what it speaks; nothing once it has.
    pub(super) fn greeting_until(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Greeting { until, .. } => Some(*until),
            Phase::Attached(_) => None,
        }
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
            Phase::Greeting { scanner, .. } => {
                let Some((request, rest)) = scanner.push(bytes) else { return Ok(Vec::new()) };
                let reply: AttachReply = request.answer();
                self.out.buffer().extend_from_slice(&reply.to_bytes());
                if reply.generation().is_err() {
                    // What it said behind the handshake is in a language nobody here speaks.
                    return Ok(Vec::new());
                }
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

    /// The guest ends one of its streams: what of it waits for a client that reads slowly is not too much for that.
    pub(super) fn stream_ends(&mut self) {
        self.ended += 1;
    }

    /// Queues a frame; `false` when the client, which has so many streams open, has let too much pile up.
    pub(super) fn queue(&mut self, frame: &Frame, streams: usize) -> bool {
        let may_wait = MAX_WAITING + streams.saturating_add(self.ended).saturating_mul(MAX_WAITING_PER_STREAM);
        frame.encode_into(self.out.buffer());
        self.out.len() <= may_wait
    }

    /// Sends what the socket takes now; `false` when the other end is gone.
    pub(super) fn flush(&mut self) -> bool {
        let open = self.out.flush(&self.socket);
        if self.out.is_empty() {
            self.ended = 0;
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use smolvm_proto::{AttachRequest, Channel, Nonce};

    use super::*;

    #[test]
    fn only_a_client_that_has_not_greeted_has_a_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(1, ours);
        assert!(client.greeting_until().is_some_and(|at| at <= Instant::now() + GREETING_WAIT));
        theirs.write_all(&AttachRequest::new(Nonce([1; 16])).to_bytes()).unwrap();
        assert!(matches!(client.read(), Heard::Frames(frames) if frames.is_empty()));
        assert_eq!(client.greeting_until(), None);
    }

    #[test]
    fn what_is_said_behind_a_handshake_counts_if_that_is_taken() {
        let heard = |newest: u16| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let mut client = Client::new(1, ours);
            let request = AttachRequest { nonce: Nonce([1; 16]), oldest: newest, newest };
            let mut bytes = request.to_bytes().to_vec();
            Frame::reset(7).encode_into(&mut bytes);
            theirs.write_all(&bytes).unwrap();
            let Heard::Frames(frames) = client.read() else { panic!("gone") };
            assert!(!client.out.is_empty(), "either way it is told what is spoken here");
            (frames.len(), client.greeting_until().is_some())
        };
        assert_eq!(heard(smolvm_proto::GENERATION), (1, false));
        assert_eq!(heard(smolvm_proto::GENERATION + 1), (0, true), "it has until its deadline to go away");
    }

    #[test]
    fn what_waits_for_a_client_is_bounded_by_its_streams() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(1, ours);
        let frame = Frame::data(1, Channel::Stdout, vec![0; 1]);
        let windows = 2 * smolvm_proto::INITIAL_WINDOW;
        assert!((0..windows).all(|_| client.queue(&frame, 1)), "a guest within its windows was dropped");
        assert!(!client.queue(&frame, 0), "what a client without streams leaves unread grows");
        let large = Frame::data(1, Channel::Stdout, vec![0; 1 << 16]);
        assert!(!(0..64).all(|_| client.queue(&large, 1)));
    }
}
