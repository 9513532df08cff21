//! Questions over UDP: one socket to the name server per question, so that nobody but that server can answer it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::message::{self, MAX_QUERY, MAX_REPLY};
use super::resolvers::Resolvers;

/// Questions waiting for an answer; more are dropped, and the guest asks again.
const MAX_WAITING: usize = 64;
/// Datagrams taken per turn, so that a flood does not keep the monitor from its other work.
const MAX_PER_TURN: usize = 64;
/// How long one server has before the next is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// The questions of one guest.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    waiting: Vec<Waiting>,
}

/// One question on its way.
#[derive(Debug)]
struct Waiting {
    guest: SocketAddr,
    query: Vec<u8>,
    guest_id: [u8; 2],
    our_id: [u8; 2],
    upstream: UdpSocket,
    server: SocketAddr,
    /// Servers that are still to be tried.
    next: Vec<SocketAddr>,
    deadline: Instant,
}

/// What became of a question at one turn.
enum Turn {
    Wait,
    Answered(Vec<u8>),
    TryNext,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, waiting: Vec::new() }
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        into.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN));
        into.extend(self.waiting.iter().map(|w| PollFd::from_borrowed_fd(w.upstream.as_fd(), PollFlags::IN)));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|w| w.deadline).min()
    }

    pub(super) fn turn(&mut self, resolvers: &mut Resolvers, now: Instant) {
        let mut still = Vec::with_capacity(self.waiting.len());
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.look(now) {
                Turn::Wait => still.push(waiting),
                Turn::Answered(reply) => {
                    resolvers.prefer(waiting.server);
                    self.answer(&reply, waiting.guest);
                }
                Turn::TryNext => {
                    resolvers.avoid(waiting.server);
                    let Waiting { guest, query, guest_id, next, .. } = waiting;
                    still.extend(self.ask(guest, query, guest_id, next, now));
                }
            }
        }
        self.waiting = still;
        self.take_questions(resolvers, now);
    }

    fn take_questions(&mut self, resolvers: &mut Resolvers, now: Instant) {
        let mut buffer = [0; MAX_QUERY + 1];
        for _ in 0..MAX_PER_TURN {
            // An error here is the device going away, or nothing to read: either way, no question.
            let Ok((len, guest)) = self.socket.recv_from(&mut buffer) else { return };
            let query = &buffer[..len];
            if len > MAX_QUERY || !message::is_plain_query(query) || self.waiting.len() >= MAX_WAITING {
                continue;
            }
            let Some(guest_id) = message::id(query) else { continue };
            let asked = self.ask(guest, query.to_vec(), guest_id, resolvers.current(), now);
            self.waiting.extend(asked);
        }
    }

    /// Sends the question to the first of `servers` that takes it; answers "failed" when none does.
    fn ask(&self, guest: SocketAddr, mut query: Vec<u8>, guest_id: [u8; 2], servers: Vec<SocketAddr>, now: Instant) -> Option<Waiting> {
        let mut next = servers.into_iter();
        while let Some(server) = next.next() {
            let mut our_id = [0; 2];
            if getrandom::fill(&mut our_id).is_err() {
                continue;
            }
            message::set_id(&mut query, our_id);
            if let Ok(upstream) = send(&query, server) {
                return Some(Waiting { guest, query, guest_id, our_id, upstream, server, next: next.collect(), deadline: now + PATIENCE });
            }
        }
        message::set_id(&mut query, guest_id);
        if let Some(failure) = message::failure(&query) {
            self.answer(&failure, guest);
        }
        None
    }

    fn answer(&self, reply: &[u8], guest: SocketAddr) {
        // A guest that is gone, or whose queue is full, asks again or not at all.
        let _ = self.socket.send_to(reply, guest);
    }
}

impl Waiting {
    fn look(&mut self, now: Instant) -> Turn {
        let mut buffer = vec![0; MAX_REPLY + 1];
        for _ in 0..MAX_PER_TURN {
            match self.upstream.recv(&mut buffer) {
                Ok(len) if message::is_reply_to(&buffer[..len], self.our_id) => {
                    message::set_id(&mut buffer, self.guest_id);
                    let whole = (len <= MAX_REPLY).then(|| buffer[..len].to_vec());
                    return whole.or_else(|| message::truncated(&buffer[..len])).map_or(Turn::TryNext, Turn::Answered);
                }
                // Not an answer to this question: wait on for one.
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // The server's machine says that nobody listens there.
                Err(_) => return Turn::TryNext,
            }
        }
        if now < self.deadline { Turn::Wait } else { Turn::TryNext }
    }
}

fn send(query: &[u8], server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(query)?;
    Ok(socket)
}
