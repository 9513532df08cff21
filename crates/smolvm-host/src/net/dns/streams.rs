//! Questions over TCP: the guest's connection spliced to one of ours, question by question inspected.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::message;
use super::resolvers::Resolvers;

/// Connections of one guest at a time.
const MAX_STREAMS: usize = 16;
/// A connection without progress is closed.
const IDLE: Duration = Duration::from_secs(10);
/// A connection is closed however busy it is.
const LIFETIME: Duration = Duration::from_mins(1);
/// Bytes kept from the guest: one question and its length. A longer one ends the connection.
const MAX_INBOUND: usize = 2 + message::MAX_QUERY;
/// Bytes kept for the guest; the server waits until they are taken.
const MAX_ANSWERS: usize = 16 << 10;

/// The connections of one guest.
#[derive(Debug)]
pub(super) struct Streams {
    listener: TcpListener,
    open: Vec<Splice>,
}

/// A guest's connection and ours to a name server.
#[derive(Debug)]
struct Splice {
    guest: TcpStream,
    server: TcpStream,
    address: SocketAddr,
    /// From the guest, not yet inspected.
    inbound: Vec<u8>,
    /// Inspected, for the server.
    questions: Vec<u8>,
    /// From the server, for the guest.
    answers: Vec<u8>,
    connected: bool,
    guest_side: Side,
    server_side: Side,
    moved: Instant,
    end: Instant,
}

/// Whether a connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

impl Streams {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, open: Vec::new() }
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        if self.open.len() < MAX_STREAMS {
            into.push(PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN));
        }
        for splice in &self.open {
            let flag = |wanted: bool, flag| if wanted { flag } else { PollFlags::empty() };
            let guest = flag(splice.wants_questions(), PollFlags::IN) | flag(!splice.answers.is_empty(), PollFlags::OUT);
            let server =
                flag(splice.wants_answers(), PollFlags::IN) | flag(!splice.connected || !splice.questions.is_empty(), PollFlags::OUT);
            // Without a wish, a descriptor would still report a hang-up again and again.
            if !guest.is_empty() {
                into.push(PollFd::from_borrowed_fd(splice.guest.as_fd(), guest));
            }
            if !server.is_empty() {
                into.push(PollFd::from_borrowed_fd(splice.server.as_fd(), server));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.iter().map(|s| s.end.min(s.moved + IDLE)).min()
    }

    pub(super) fn turn(&mut self, resolvers: &mut Resolvers, now: Instant) {
        while self.open.len() < MAX_STREAMS {
            let Ok((guest, _)) = self.listener.accept() else { break };
            // Without a name server the connection is closed, which the guest understands.
            if let Some(splice) = Splice::begin(guest, resolvers, now) {
                self.open.push(splice);
            }
        }
        self.open.retain_mut(|splice| {
            let open = splice.turn(now).unwrap_or(State::Closed) == State::Open;
            if !open && !splice.connected {
                resolvers.avoid(splice.address);
            }
            open
        });
    }
}

impl Splice {
    fn begin(guest: TcpStream, resolvers: &mut Resolvers, now: Instant) -> Option<Self> {
        guest.set_nonblocking(true).ok()?;
        let (address, server) = resolvers.current().into_iter().find_map(|address| Some((address, dial(address).ok()?)))?;
        Some(Self {
            guest,
            server,
            address,
            inbound: Vec::new(),
            questions: Vec::new(),
            answers: Vec::new(),
            connected: false,
            guest_side: Side::Open,
            server_side: Side::Open,
            moved: now,
            end: now + LIFETIME,
        })
    }

    /// One more question is read only when the last one is on its way.
    fn wants_questions(&self) -> bool {
        self.guest_side == Side::Open && self.questions.is_empty()
    }

    fn wants_answers(&self) -> bool {
        self.connected && self.server_side == Side::Open && self.answers.len() < MAX_ANSWERS
    }

    fn turn(&mut self, now: Instant) -> io::Result<State> {
        if now >= self.end || now >= self.moved + IDLE {
            return Ok(State::Closed);
        }
        if !self.connected {
            sockopt::socket_error(&self.server)??;
            self.connected = self.server.peer_addr().is_ok();
        }
        let before = (self.inbound.len(), self.questions.len(), self.answers.len());
        if self.wants_questions() {
            self.guest_side = read_some(&mut self.guest, &mut self.inbound, MAX_INBOUND)?;
        }
        if self.inspect() == State::Closed {
            return Ok(State::Closed);
        }
        if self.connected {
            write_some(&mut self.server, &mut self.questions)?;
        }
        if self.wants_answers() {
            self.server_side = read_some(&mut self.server, &mut self.answers, MAX_ANSWERS)?;
        }
        write_some(&mut self.guest, &mut self.answers)?;
        if before != (self.inbound.len(), self.questions.len(), self.answers.len()) {
            self.moved = now;
        }
        // A guest may close its side and still wait for the answer; the idle bound ends that.
        Ok(if self.server_side == Side::Closed && self.answers.is_empty() { State::Closed } else { State::Open })
    }

    /// Moves whole, plain questions on; anything else ends the connection.
    fn inspect(&mut self) -> State {
        while self.questions.is_empty()
            && let Some((length, rest)) = self.inbound.split_first_chunk()
        {
            let length = usize::from(u16::from_be_bytes(*length));
            if length > message::MAX_QUERY {
                return State::Closed;
            }
            let Some(question) = rest.get(..length) else { break };
            if !message::is_plain_query(question) {
                return State::Closed;
            }
            let len = 2 + question.len();
            self.questions = self.inbound.drain(..len).collect();
        }
        State::Open
    }
}

/// Whether more can come from an end of the splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Closed,
}

/// Reads what is there until `into` has `bound` bytes.
fn read_some(from: &mut TcpStream, into: &mut Vec<u8>, bound: usize) -> io::Result<Side> {
    let mut chunk = [0; 4096];
    loop {
        let room = bound.saturating_sub(into.len()).min(chunk.len());
        if room == 0 {
            return Ok(Side::Open);
        }
        match from.read(&mut chunk[..room]) {
            Ok(0) => return Ok(Side::Closed),
            Ok(len) => into.extend_from_slice(&chunk[..len]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Side::Open),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn write_some(to: &mut TcpStream, from: &mut Vec<u8>) -> io::Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    match to.write(from) {
        Ok(len) => drop(from.drain(..len)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

/// Begins to connect, without waiting for it.
fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno.into()),
    }
}
