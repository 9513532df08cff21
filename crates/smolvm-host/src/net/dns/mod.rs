//! Name service for one guest, inside the monitor's poll loop.
//!
//! ```text
//!   guest ──udp/tcp 53──► gateway address on its TAP ──► [Forwarder] ──own socket, own id──► host's name server
//! ```
//!
//! All guests share the gateway address; each forwarder is tied to its own TAP, so it hears one guest.
//! Questions go on as they are, so what the host can resolve, the guest can.
//!
//! Invariants: no call waits; memory and sockets are bounded (64 questions, 16 connections); nothing a
//! guest or a name server sends is an error for the monitor: at worst a question stays unanswered.

mod asker;
mod datagrams;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod message;
mod questions;
mod resolvers;
mod streams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) use asker::Asker;
use datagrams::Datagrams;
use resolvers::Resolvers;
use rustix::event::PollFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use smolvm_model::name::TapName;
use streams::Streams;

use super::bind_device::bind_device;

const PORT: u16 = 53;
const BACKLOG: i32 = 16;

/// The name service of one guest.
#[derive(Debug)]
pub struct Forwarder {
    datagrams: Datagrams,
    streams: Streams,
    resolvers: Resolvers,
}

/// Why there is no name service.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// Somebody else listens on port 53 of all addresses.
    #[error("port 53 of {gateway} is taken by another name server on this host")]
    PortTaken {
        /// The gateway's address.
        gateway: Ipv4Addr,
    },
    /// The sockets cannot be made.
    #[error("cannot listen for name queries on {gateway} ({tap})")]
    Listen {
        /// The gateway's address.
        gateway: Ipv4Addr,
        /// The guest's TAP.
        tap: TapName,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Forwarder {
    /// Listens on the gateway's address for this TAP's guest; name servers come from `resolv_conf`
    /// (`/etc/resolv.conf`), which is read again whenever it changes.
    pub fn bind(gateway: Ipv4Addr, tap: &TapName, resolv_conf: &Path) -> Result<Self, DnsError> {
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => DnsError::PortTaken { gateway },
            _ => DnsError::Listen { gateway, tap: tap.clone(), source },
        };
        Ok(Self {
            datagrams: Datagrams::new(udp(gateway, tap).map_err(fail)?),
            streams: Streams::new(tcp(gateway, tap).map_err(fail)?),
            resolvers: Resolvers::new(resolv_conf, IpAddr::V4(gateway)),
        })
    }

    /// What to wait for, beside everything else the caller waits for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        self.datagrams.poll_fds(&mut fds);
        self.streams.poll_fds(&mut fds);
        fds
    }

    /// How long to wait at most, if for less than for ever.
    pub fn timeout(&self) -> Option<Duration> {
        let deadline = [self.datagrams.deadline(), self.streams.deadline()].into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Does what can be done without waiting; to be called after every wait, whatever ended it.
    pub fn handle(&mut self) {
        let now = Instant::now();
        self.datagrams.turn(&mut self.resolvers, now);
        self.streams.turn(&mut self.resolvers, now);
    }
}

fn udp(gateway: Ipv4Addr, tap: &TapName) -> io::Result<UdpSocket> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // Before the address: only then two forwarders may listen on the same one.
    bind_device(&socket, tap)?;
    // Beside a name server of the host that listens on all addresses and allows this; the more exact address wins.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((gateway, PORT)))?;
    Ok(socket.into())
}

fn tcp(gateway: Ipv4Addr, tap: &TapName) -> io::Result<TcpListener> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind_device(&socket, tap)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((gateway, PORT)))?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
