//! The network of an ordinary user: no TAP, no rights, a program that turns frames into sockets.
//!
//! ```text
//!   QEMU ══ frames ══► [Relay in the monitor] ══ frames ══► passt (own uid, empty root, seccomp) ══ sockets ══► world
//!                        │  judges each frame               ends when its socket closes
//!                        └─ name queries ─► host's name servers
//! ```
//!
//! The relay is there because the passt of Debian 12 (2023-03) connects wherever a packet says: a guest
//! that writes 127.0.0.1 into a packet reaches the host's loopback, whatever `--no-map-gw` is given.
//!
//! Invariants: nothing reaches passt that [`smolvm_model::network::judge`] did not pass; the relay
//! never waits and keeps a bounded number of bytes; passt cannot outlive whoever holds the [`UserNet`],
//! for the kernel closes that end of its socket.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod passt;
mod relay;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use passt::Passt;
use relay::Relay;
use rustix::event::PollFd;
use smolvm_model::name::MacAddr;
use smolvm_model::network::FramePolicy;

use super::netlink::{Netlink, NetlinkError, RouteKind};

/// What the network shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// The guest's Ethernet address.
    pub guest_mac: MacAddr,
    /// The guest's address.
    pub guest_address: Ipv4Addr,
    /// The gateway's and name server's address, as the guest sees it.
    pub gateway: Ipv4Addr,
    /// The uid passt shall run as; `None` where the caller is no root and it keeps the caller's.
    pub run_as: Option<u32>,
    /// Where the host's name servers are listed: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// A running user-mode network. Dropping it ends passt.
#[derive(Debug)]
pub struct UserNet {
    relay: Relay,
    passt: Passt,
    spec: UserSpec,
    host_known: Instant,
}

/// Why there is no user-mode network.
#[derive(Debug, thiserror::Error)]
pub enum UserNetError {
    /// There is no `passt`.
    #[error("the program `passt` is not installed")]
    Missing,
    /// It could not be started, or talked to.
    #[error("cannot {action} passt")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It ended, or did not answer, before the guest could use it.
    #[error("passt did not come up: {complaint}")]
    NotUp {
        /// What it wrote to standard error.
        complaint: String,
    },
    /// The host's own addresses cannot be told.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Whether the world can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Up,
    /// passt is gone; the guest sees a network on which nobody answers.
    NoWorld,
    /// The hypervisor closed its end.
    NoGuest,
}

/// How old the list of the host's own addresses may grow.
const HOST_TTL: Duration = Duration::from_secs(5);

/// Starts the network; the descriptor is the hypervisor's end of a stream of frames, each led by its
/// length in four bytes (QEMU: `-netdev stream,…,server=off,addr.type=fd,addr.str=N`).
pub fn start(spec: &UserSpec) -> Result<(UserNet, OwnedFd), UserNetError> {
    let io = |action| move |source| UserNetError::Io { action, source };
    let policy = policy(spec)?;
    let (ours, theirs) = UnixStream::pair().map_err(io("make a socket for"))?;
    let passt = Passt::start(spec, theirs.into(), &ours)?;
    let (guest, hypervisor) = UnixStream::pair().map_err(io("make a socket for"))?;
    let relay = Relay::new(guest, ours, policy, &spec.resolv_conf).map_err(io("relay to"))?;
    Ok((UserNet { relay, passt, spec: spec.clone(), host_known: Instant::now() }, hypervisor.into()))
}

impl UserNet {
    /// passt's pid.
    pub fn pid(&self) -> u32 {
        self.passt.pid()
    }

    /// What to wait for, beside everything else the caller waits for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = Vec::new();
        self.relay.poll_fds(&mut fds);
        self.passt.poll_fds(&mut fds);
        fds
    }

    /// How long to wait at most, if for less than for ever.
    pub fn timeout(&self) -> Option<Duration> {
        self.relay.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Does what can be done without waiting; to be called after every wait, whatever ended it.
    pub fn handle(&mut self) -> Health {
        let now = Instant::now();
        if now >= self.host_known + HOST_TTL {
            self.host_known = now;
            // A list that cannot be read now leaves the last one in force.
            if let Ok(policy) = policy(&self.spec) {
                self.relay.set_policy(policy);
            }
        }
        self.passt.listen();
        self.relay.turn(now)
    }

    /// What passt last wrote to standard error, for a message.
    pub fn complaint(&self) -> String {
        self.passt.complaint()
    }
}

fn policy(spec: &UserSpec) -> Result<FramePolicy, NetlinkError> {
    let routes = Netlink::open()?.routes()?;
    let host = routes.iter().filter(|route| route.kind == RouteKind::Local).map(|route| route.to).collect();
    Ok(FramePolicy { guest_mac: spec.guest_mac, guest_address: spec.guest_address, gateway: spec.gateway, host })
}
