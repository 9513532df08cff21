//! Questions on their way to the name servers: one socket per question, so that nobody but the server
//! that was asked can answer it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::message;
use super::resolvers::Resolvers;

/// Questions waiting for an answer; more are dropped, and the guest asks again.
const MAX_WAITING: usize = 64;
/// How long one server has before the next is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams looked at per question and turn: a server that talks nonsense does not keep the monitor.
const MAX_LOOKS: usize = 16;

/// The open questions of one guest; `A` is where on the guest the answer goes.
#[derive(Debug)]
pub(super) struct Questions<A> {
    waiting: Vec<Waiting<A>>,
    /// A longer answer is replaced by "ask over TCP".
    max_reply: usize,
}

/// An answer for the guest.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) struct Answer<A> {
    /// Where it goes.
    pub(in crate::net) to: A,
    /// The message.
    pub(in crate::net) message: Vec<u8>,
}

/// One question.
#[derive(Debug)]
struct Waiting<A> {
    asker: A,
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

impl<A: Copy> Questions<A> {
    pub(super) fn new(max_reply: usize) -> Self {
        Self { waiting: Vec::new(), max_reply }
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        into.extend(self.waiting.iter().map(|w| PollFd::from_borrowed_fd(w.upstream.as_fd(), PollFlags::IN)));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|w| w.deadline).min()
    }

    /// Passes a question on; gives an answer at once only when no server can be asked.
    pub(super) fn ask(&mut self, asker: A, query: &[u8], resolvers: &mut Resolvers, now: Instant) -> Option<Answer<A>> {
        if query.len() > message::MAX_QUERY || !message::is_plain_query(query) || self.waiting.len() >= MAX_WAITING {
            return None;
        }
        let guest_id = message::id(query)?;
        match begin(asker, query.to_vec(), guest_id, resolvers.current(), now) {
            Ok(waiting) => {
                self.waiting.push(waiting);
                None
            }
            Err(failure) => failure,
        }
    }

    /// The answers that have come meanwhile; questions whose server failed go to the next one.
    pub(super) fn turn(&mut self, resolvers: &mut Resolvers, now: Instant) -> Vec<Answer<A>> {
        let mut answers = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.look(self.max_reply, now) {
                Turn::Wait => self.waiting.push(waiting),
                Turn::Answered(message) => {
                    resolvers.prefer(waiting.server);
                    answers.push(Answer { to: waiting.asker, message });
                }
                Turn::TryNext => {
                    resolvers.avoid(waiting.server);
                    match begin(waiting.asker, waiting.query, waiting.guest_id, waiting.next, now) {
                        Ok(again) => self.waiting.push(again),
                        Err(failure) => answers.extend(failure),
                    }
                }
            }
        }
        answers
    }
}

/// Sends the question to the first of `servers` that takes it; when none does, the answer is "failed".
fn begin<A>(
    asker: A,
    mut query: Vec<u8>,
    guest_id: [u8; 2],
    servers: Vec<SocketAddr>,
    now: Instant,
) -> Result<Waiting<A>, Option<Answer<A>>> {
    let mut next = servers.into_iter();
    while let Some(server) = next.next() {
        let mut our_id = [0; 2];
        if getrandom::fill(&mut our_id).is_err() {
            continue;
        }
        message::set_id(&mut query, our_id);
        if let Ok(upstream) = send(&query, server) {
            return Ok(Waiting { asker, query, guest_id, our_id, upstream, server, next: next.collect(), deadline: now + PATIENCE });
        }
    }
    message::set_id(&mut query, guest_id);
    Err(message::failure(&query).map(|message| Answer { to: asker, message }))
}

impl<A> Waiting<A> {
    fn look(&mut self, max_reply: usize, now: Instant) -> Turn {
        let mut buffer = vec![0; max_reply + 1];
        for _ in 0..MAX_LOOKS {
            match self.upstream.recv(&mut buffer) {
                Ok(len) if message::is_reply_to(&buffer[..len], self.our_id) => {
                    message::set_id(&mut buffer, self.guest_id);
                    let whole = (len <= max_reply).then(|| buffer[..len].to_vec());
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
