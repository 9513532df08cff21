//! Carries frames between hypervisor and passt and looks at every one that comes from the guest.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use smolvm_model::network::{self, FramePolicy, MAX_NAME_REPLY, Verdict};

use super::Health;
use crate::net::dns::Asker;

/// The largest frame either side sends (QEMU's own bound).
const MAX_FRAME: usize = 69_632;
const PREFIX: usize = 4;
/// Bytes kept for a side that does not read; frames from the other side wait in the kernel meanwhile.
const MAX_QUEUED: usize = 128 << 10;
/// Bytes taken from one side per turn.
const MAX_TURN: usize = 64 << 10;

/// The two streams and what is between them.
#[derive(Debug)]
pub(super) struct Relay {
    guest: End,
    world: End,
    policy: FramePolicy,
    names: Asker,
}

/// One stream of frames.
#[derive(Debug)]
struct End {
    stream: UnixStream,
    /// Bytes read that are not yet whole frames.
    partial: Vec<u8>,
    /// Bytes to be written: whole frames, the first perhaps begun.
    queue: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

impl Relay {
    pub(super) fn new(guest: UnixStream, world: UnixStream, policy: FramePolicy, resolv_conf: &Path) -> io::Result<Self> {
        let names = Asker::new(policy.gateway, resolv_conf, MAX_NAME_REPLY);
        Ok(Self { guest: End::new(guest)?, world: End::new(world)?, policy, names })
    }

    pub(super) fn set_policy(&mut self, policy: FramePolicy) {
        self.policy = policy;
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        self.guest.poll_fd(self.world.has_room(), into);
        self.world.poll_fd(self.guest.has_room(), into);
        self.names.poll_fds(into);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.names.deadline()
    }

    pub(super) fn turn(&mut self, now: Instant) -> Health {
        let mut answers = self.names.turn(now);
        // Towards the world, each frame is judged.
        if self.world.has_room() {
            for frame in self.guest.read_frames() {
                let bytes = &self.guest.partial[frame.clone()];
                match network::judge(bytes, &self.policy) {
                    Verdict::Pass => self.world.push(bytes),
                    // Who asks and does not read gets no answer, so it need not be found.
                    Verdict::NameQuery { .. } if !self.guest.has_room() => {}
                    Verdict::Drop => {}
                    Verdict::NameQuery { port, question } => {
                        answers.extend(bytes.get(question).and_then(|question| self.names.ask(port, question, now)));
                    }
                }
            }
            self.guest.forget_frames();
        }
        // Towards the guest, frames are only kept whole, so that answers can be put between them.
        if self.guest.has_room() {
            for frame in self.world.read_frames() {
                self.guest.push(&self.world.partial[frame]);
            }
            self.world.forget_frames();
        }
        // Whom a packet does not reach asks again: what finds no room is dropped, as on any wire.
        for answer in answers {
            if !self.guest.has_room() {
                break;
            }
            if let Some(frame) = network::name_reply(&self.policy, answer.to, &answer.message) {
                self.guest.push(&frame);
            }
        }
        self.guest.write();
        self.world.write();
        match (self.guest.state, self.world.state) {
            (State::Closed, _) => Health::NoGuest,
            (_, State::Closed) => Health::NoWorld,
            (State::Open, State::Open) => Health::Up,
        }
    }
}

impl End {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, partial: Vec::new(), queue: Vec::new(), state: State::Open })
    }

    /// A closed end takes everything, for it keeps nothing: the other side must not stand still.
    fn has_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED
    }

    fn poll_fd<'a>(&'a self, other_has_room: bool, into: &mut Vec<PollFd<'a>>) {
        let flag = |wanted: bool, flag| if wanted { flag } else { PollFlags::empty() };
        let wish = flag(other_has_room, PollFlags::IN) | flag(!self.queue.is_empty(), PollFlags::OUT);
        // Closed, or without a wish, a descriptor would report a hang-up again and again.
        if self.state == State::Open && !wish.is_empty() {
            into.push(PollFd::from_borrowed_fd(self.stream.as_fd(), wish));
        }
    }

    /// Reads what is there and gives the places of the whole frames in `partial`.
    fn read_frames(&mut self) -> Vec<Range<usize>> {
        let mut chunk = [0; 16 << 10];
        let mut taken = 0;
        while self.state == State::Open && taken < MAX_TURN {
            match self.stream.read(&mut chunk) {
                Ok(0) => self.close(),
                Ok(len) => {
                    taken += len;
                    self.partial.extend_from_slice(&chunk[..len]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.close(),
            }
        }
        let (frames, broken) = split(&self.partial);
        if broken {
            // Who cannot count its own frames is not listened to any more; the whole ones before still count.
            self.state = State::Closed;
        }
        frames
    }

    /// Drops the bytes of the frames that [`End::read_frames`] gave.
    fn forget_frames(&mut self) {
        if self.state == State::Closed {
            self.close();
        }
        let end = split(&self.partial).0.last().map_or(0, |frame| frame.end);
        self.partial.drain(..end);
        // What a burst made grow is given back: there is one relay per running sandbox.
        if self.partial.capacity() > 2 * MAX_FRAME {
            self.partial.shrink_to(MAX_FRAME);
        }
    }

    fn push(&mut self, frame: &[u8]) {
        let Ok(length) = u32::try_from(frame.len()) else { return };
        if self.state == State::Open {
            self.queue.extend(length.to_be_bytes());
            self.queue.extend_from_slice(frame);
        }
    }

    fn write(&mut self) {
        while self.state == State::Open && !self.queue.is_empty() {
            match self.stream.write(&self.queue) {
                Ok(len) => drop(self.queue.drain(..len)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.close(),
            }
        }
        if self.queue.is_empty() && self.queue.capacity() > 2 * MAX_FRAME {
            self.queue = Vec::new();
        }
    }

    fn close(&mut self) {
        self.state = State::Closed;
        // The other side shall know; one that is gone already needs no word.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.partial = Vec::new();
        self.queue = Vec::new();
    }
}

/// The places of the whole frames, and whether what follows them cannot be a frame.
fn split(bytes: &[u8]) -> (Vec<Range<usize>>, bool) {
    let mut frames = Vec::new();
    let mut at = 0;
    while let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return (frames, true);
        }
        let frame = at + PREFIX..at + PREFIX + length;
        if frame.end > bytes.len() {
            break;
        }
        at = frame.end;
        frames.push(frame);
    }
    (frames, false)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use smolvm_model::name::MacAddr;

    use super::*;

    #[test]
    fn frames_are_split_whole_and_absurd_lengths_noticed() {
        let ends = |bytes: &[u8]| {
            let (frames, broken) = split(bytes);
            (frames.into_iter().map(|frame| (frame.start, frame.end)).collect::<Vec<_>>(), broken)
        };
        assert_eq!(ends(&[]), (vec![], false));
        assert_eq!(ends(&[0, 0, 0, 2, 7, 7, 0, 0, 0, 0, 0, 0, 0, 3, 1]), (vec![(4, 6), (10, 10)], false));
        assert_eq!(ends(&[0, 0, 0, 1, 7, 0, 2, 0, 0]), (vec![(4, 5)], true));
        assert_eq!(ends(&[0xff; 5]), (vec![], true));
    }

    /// A guest that asks and never reads: each question is answered at once, for there is no name server.
    #[test]
    fn answers_for_a_guest_that_does_not_read_are_not_kept() {
        let ((mut hypervisor, guest), (world, _passt)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let policy = FramePolicy {
            guest_mac: MacAddr::local([0, 0, 0, 0, 1]),
            guest_address: Ipv4Addr::new(10, 0, 2, 15),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            host: Vec::new(),
        };
        let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\x00\x00\x01\x00\x01"].concat();
        let mut frame = network::name_reply(&policy, 53, &question).unwrap();
        frame[6..12].copy_from_slice(&policy.guest_mac.0);
        frame[26..30].copy_from_slice(&policy.guest_address.octets());
        frame[30..34].copy_from_slice(&policy.gateway.octets());
        let framed = [&u32::try_from(frame.len()).unwrap().to_be_bytes()[..], &frame].concat();
        let mut relay = Relay::new(guest, world, policy, Path::new("/dev/null")).unwrap();
        let most = MAX_QUEUED + MAX_FRAME + PREFIX;
        let mut largest = 0;
        // Some 20 times what may be kept, and what the kernel keeps.
        for _ in 0..200 {
            hypervisor.write_all(&framed.repeat(200)).unwrap();
            assert_eq!(relay.turn(Instant::now()), Health::Up);
            largest = largest.max(relay.guest.queue.len());
        }
        assert!((1..=most).contains(&largest), "{largest} bytes wait");
        // One that reads again is answered again.
        let mut read = vec![0; 1 << 20];
        hypervisor.set_nonblocking(true).unwrap();
        while hypervisor.read(&mut read).is_ok() {
            relay.turn(Instant::now());
        }
        hypervisor.write_all(&framed).unwrap();
        relay.turn(Instant::now());
        assert!(relay.guest.has_room() && hypervisor.read(&mut read).unwrap() > 0);
    }
}
