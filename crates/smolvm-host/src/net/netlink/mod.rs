//! The kernel's routing socket: links, addresses, routes, neighbours.
//!
//! A small client of our own, blocking, one request (or one batch) at a time. It speaks to the network
//! namespace of the thread that opened it.
//!
//! Invariants: a datagram that did not fit, does not add up, or comes from anybody but the kernel is an
//! error, never a shorter list; a list that changed while it was read is read again; every wait is bounded.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inet;
mod link;
mod probe;
mod wire;

pub use inet::{Route, RouteKind};
pub use link::{Link, LinkChange, Up};

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recvfrom, send, socket_with, sockopt};
use wire::{Malformed, Request};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel fills datagrams of a dump up to 32 KiB; one that is larger is reported, not cut.
const DATAGRAM: usize = 64 << 10;
/// Messages per batch: their answers must fit the socket's receive buffer.
const BATCH: usize = 64;
/// How often a list that changes under the reader is begun anew.
const DUMP_TRIES: u32 = 20;
/// The kernel answers at once; the bound only keeps a broken one from hanging us.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open routing socket.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

/// Why the kernel's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("cannot {action} over the routing socket")]
    Socket {
        /// What was to be done.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel said no.
    #[error("the kernel refused to {action}")]
    Refused {
        /// What was to be done.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel's answer does not add up.
    #[error("the kernel's answer to the request to {action} cannot be read")]
    Malformed {
        /// What was to be done.
        action: &'static str,
    },
    /// The list changed each time while it was read.
    #[error("gave up trying to {action}: it kept changing")]
    Restless {
        /// What was to be done.
        action: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => Errno::from_io_error(source),
            Self::Malformed { .. } | Self::Restless { .. } => None,
        }
    }
}

fn malformed(action: &'static str) -> impl FnOnce(Malformed) -> NetlinkError {
    move |Malformed| NetlinkError::Malformed { action }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        // No protocol is number 0, which is NETLINK_ROUTE.
        Self::open_for(None)
    }

    fn open_for(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let make = || -> rustix::io::Result<OwnedFd> {
            let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
            Ok(fd)
        };
        let fd = make().map_err(|errno| NetlinkError::Socket { action: "open", source: errno.into() })?;
        Ok(Self { fd, seq: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Asks for one change and waits for the kernel's word on it.
    fn change(&mut self, action: &'static str, request: Request) -> Result<(), NetlinkError> {
        self.change_all(action, vec![request])?.pop().unwrap_or(Err(NetlinkError::Malformed { action }))
    }

    /// Asks for several changes with few system calls; answers come in the order of the requests.
    fn change_all(&mut self, action: &'static str, requests: Vec<Request>) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let first = self.seq.wrapping_add(1);
            let mut bytes = Vec::new();
            let mut open = 0_u32;
            for request in requests.by_ref().take(BATCH) {
                self.seq = self.seq.wrapping_add(1);
                open += 1;
                bytes.extend(request.finish(self.seq, NLM_F_ACK));
            }
            self.send(action, &bytes)?;
            let mut got: Vec<Option<Result<(), NetlinkError>>> = (0..open).map(|_| None).collect();
            while got.iter().any(Option::is_none) {
                for (seq, errno) in self.acks(action)? {
                    let place = usize::try_from(seq.wrapping_sub(first)).ok().and_then(|i| got.get_mut(i));
                    if let Some(place) = place {
                        *place = Some(if errno == 0 {
                            Ok(())
                        } else {
                            Err(NetlinkError::Refused { action, source: io::Error::from_raw_os_error(errno) })
                        });
                    }
                }
            }
            answers.extend(got.into_iter().flatten());
        }
        Ok(answers)
    }

    fn acks(&mut self, action: &'static str) -> Result<Vec<(u32, i32)>, NetlinkError> {
        let len = self.receive(action)?;
        let mut acks = Vec::new();
        for message in wire::messages(&self.buffer[..len]) {
            let message = message.map_err(malformed(action))?;
            if message.kind == NLMSG_ERROR {
                acks.push((message.seq, negated(&message).map_err(malformed(action))?));
            }
        }
        Ok(acks)
    }

    /// Asks for one thing and reads it.
    fn ask<T>(&mut self, action: &'static str, request: Request, read: impl Fn(&[u8]) -> Result<T, Malformed>) -> Result<T, NetlinkError> {
        self.seq = self.seq.wrapping_add(1);
        let bytes = request.finish(self.seq, 0);
        self.send(action, &bytes)?;
        loop {
            let len = self.receive(action)?;
            for message in wire::messages(&self.buffer[..len]) {
                let message = message.map_err(malformed(action))?;
                if message.seq != self.seq {
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    return read(message.body).map_err(malformed(action));
                }
                let errno = negated(&message).map_err(malformed(action))?;
                return Err(NetlinkError::Refused { action, source: io::Error::from_raw_os_error(errno) });
            }
        }
    }

    /// Reads a whole list, each entry turned into a value by `read`; `None` leaves it out.
    fn dump<T>(
        &mut self,
        action: &'static str,
        mut request: impl FnMut() -> Request,
        read: impl Fn(&[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            self.seq = self.seq.wrapping_add(1);
            let bytes = request().finish(self.seq, NLM_F_DUMP);
            self.send(action, &bytes)?;
            let mut list = Vec::new();
            let mut steady = true;
            'datagrams: loop {
                let len = self.receive(action)?;
                for message in wire::messages(&self.buffer[..len]) {
                    let message = message.map_err(malformed(action))?;
                    if message.seq != self.seq {
                        // A rest of an earlier, abandoned list.
                        continue;
                    }
                    steady &= message.flags & NLM_F_DUMP_INTR == 0;
                    match message.kind {
                        NLMSG_DONE => break 'datagrams,
                        NLMSG_ERROR => {
                            let errno = negated(&message).map_err(malformed(action))?;
                            return Err(NetlinkError::Refused { action, source: io::Error::from_raw_os_error(errno) });
                        }
                        _ => list.extend(read(message.body).map_err(malformed(action))?),
                    }
                }
            }
            if steady {
                return Ok(list);
            }
        }
        Err(NetlinkError::Restless { action })
    }

    fn send(&self, action: &'static str, bytes: &[u8]) -> Result<(), NetlinkError> {
        let fail = |source| NetlinkError::Socket { action, source };
        match send(&self.fd, bytes, SendFlags::empty()) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) => Err(fail(io::ErrorKind::WriteZero.into())),
            Err(errno) => Err(fail(errno.into())),
        }
    }

    /// Receives one datagram into the buffer and gives its length.
    fn receive(&mut self, action: &'static str) -> Result<usize, NetlinkError> {
        loop {
            match recvfrom(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, len, Some(from))) => {
                    let kernel = SocketAddrNetlink::try_from(from).is_ok_and(|from| from.pid() == 0);
                    if !kernel {
                        continue;
                    }
                    return if len <= self.buffer.len() { Ok(len) } else { Err(NetlinkError::Malformed { action }) };
                }
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(errno) => return Err(NetlinkError::Socket { action, source: errno.into() }),
            }
        }
    }
}

/// The error number in an answer of type `NLMSG_ERROR`, which carries it negated.
fn negated(message: &wire::Message<'_>) -> Result<i32, Malformed> {
    wire::i32_at(message.body, 0)?.checked_neg().filter(|errno| *errno >= 0).ok_or(Malformed)
}
