//! Questions over UDP, as they arrive on the gateway's address.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use super::message::{MAX_QUERY, MAX_REPLY};
use super::questions::{Answer, Questions};
use super::resolvers::Resolvers;

/// Datagrams taken per turn, so that a flood does not keep the monitor from its other work.
const MAX_PER_TURN: usize = 64;

/// The socket one guest's questions come to.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: UdpSocket,
    questions: Questions<SocketAddr>,
}

impl Datagrams {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, questions: Questions::new(MAX_REPLY) }
    }

    pub(super) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        into.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN));
        self.questions.poll_fds(into);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.questions.deadline()
    }

    pub(super) fn turn(&mut self, resolvers: &mut Resolvers, now: Instant) {
        let mut answers = self.questions.turn(resolvers, now);
        let mut buffer = [0; MAX_QUERY + 1];
        for _ in 0..MAX_PER_TURN {
            // An error here is the device going away, or nothing to read: either way, no question.
            let Ok((len, guest)) = self.socket.recv_from(&mut buffer) else { break };
            answers.extend(self.questions.ask(guest, &buffer[..len], resolvers, now));
        }
        for Answer { to, message } in answers {
            // A guest that is gone, or whose queue is full, asks again or not at all.
            let _ = self.socket.send_to(&message, to);
        }
    }
}
