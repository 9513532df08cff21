//! Name service without sockets towards the guest: for a network whose frames pass through our hands.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Instant;

use rustix::event::PollFd;

use super::questions::{Answer, Questions};
use super::resolvers::Resolvers;

/// Asks the host's name servers for one guest, whose questions come from its ports.
#[derive(Debug)]
pub(in crate::net) struct Asker {
    questions: Questions<u16>,
    resolvers: Resolvers,
}

impl Asker {
    pub(in crate::net) fn new(gateway: Ipv4Addr, resolv_conf: &Path, max_reply: usize) -> Self {
        Self { questions: Questions::new(max_reply), resolvers: Resolvers::new(resolv_conf, IpAddr::V4(gateway)) }
    }

    pub(in crate::net) fn poll_fds<'a>(&'a self, into: &mut Vec<PollFd<'a>>) {
        self.questions.poll_fds(into);
    }

    pub(in crate::net) fn deadline(&self) -> Option<Instant> {
        self.questions.deadline()
    }

    pub(in crate::net) fn ask(&mut self, port: u16, query: &[u8], now: Instant) -> Option<Answer<u16>> {
        self.questions.ask(port, query, &mut self.resolvers, now)
    }

    pub(in crate::net) fn turn(&mut self, now: Instant) -> Vec<Answer<u16>> {
        self.questions.turn(&mut self.resolvers, now)
    }
}
