//! What the monitor does for its guest's network, inside its poll loop: names for a TAP guest, everything
//! for one in user mode.
//!
//! Both are services, not conditions of life: a guest whose network failed still runs.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::PollFd;
use smolvm_host::engine::launch::NetAttach;
use smolvm_host::net::dns::Forwarder;
use smolvm_host::net::user::{self, UserNet, UserNetError, UserSpec};
use smolvm_model::engine::NetKind;
use smolvm_model::error_code::ErrorCode;
use smolvm_proto::NetworkConfig;

use super::config::{MonitorConfig, MonitorNetwork};
use crate::error::Error;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The running service.
#[derive(Debug)]
pub(super) enum Service {
    /// Names for a TAP guest.
    Names(Forwarder),
    /// The network of an ordinary user.
    User(Box<UserNet>),
}

/// Takes the TAP, or starts the user-mode network; gives the hypervisor's end and the service.
pub(super) fn attach(config: &MonitorConfig, tap: Option<OwnedFd>) -> Result<(Option<NetAttach>, Option<Service>), Error> {
    let odd = || Error::new(ErrorCode::Internal, "the monitor was given an odd network");
    match &config.network {
        None => Ok((None, None)),
        Some(MonitorNetwork::Tap { tap: name, mac, gateway, .. }) => {
            let fd = tap.ok_or_else(odd)?;
            let tap = name.parse().map_err(|_| odd())?;
            let service = match Forwarder::bind(*gateway, &tap, &PathBuf::from(RESOLV_CONF)) {
                Ok(forwarder) => Some(Service::Names(forwarder)),
                Err(e) => {
                    super::run::complain(&Error::new(ErrorCode::Busy, "the guest gets no name service").because(e));
                    None
                }
            };
            Ok((Some(NetAttach { fd, kind: NetKind::Tap, mac: mac.parse().map_err(|_| odd())? }), service))
        }
        Some(MonitorNetwork::User { mac, address, gateway }) => {
            let mac = mac.parse().map_err(|_| odd())?;
            let spec = UserSpec {
                guest_mac: mac,
                guest_address: *address,
                gateway: *gateway,
                run_as: config.uid,
                resolv_conf: PathBuf::from(RESOLV_CONF),
            };
            let (network, fd) = user::start(&spec).map_err(user_error)?;
            Ok((Some(NetAttach { fd, kind: NetKind::Stream, mac }), Some(Service::User(Box::new(network)))))
        }
    }
}

/// What the guest is told.
pub(super) fn guest_config(config: &MonitorConfig) -> Option<NetworkConfig> {
    match &config.network {
        None => None,
        Some(MonitorNetwork::Tap { mac, address, gateway, .. } | MonitorNetwork::User { mac, address, gateway }) => Some(NetworkConfig {
            mac: mac.clone(),
            address: address.to_string(),
            prefix: 32,
            gateway: gateway.to_string(),
            dns: vec![gateway.to_string()],
        }),
    }
}

impl Service {
    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        match self {
            Self::Names(forwarder) => forwarder.poll_fds(),
            Self::User(network) => network.poll_fds(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let timeout = match self {
            Self::Names(forwarder) => forwarder.timeout(),
            Self::User(network) => network.timeout(),
        };
        timeout.map(|t| Instant::now() + t)
    }

    /// To be called after every wait: it keeps its own deadlines.
    pub(super) fn serve(&mut self) {
        match self {
            Self::Names(forwarder) => forwarder.handle(),
            // The guest then sees a network on which nobody answers, and its own end tells the rest.
            Self::User(network) => drop(network.handle()),
        }
    }
}

fn user_error(e: UserNetError) -> Error {
    let error = match &e {
        UserNetError::Missing => Error::new(ErrorCode::MissingDependency, "the user-mode network cannot be made")
            .hint("apt-get install --no-install-recommends passt, or use --net none"),
        UserNetError::Io { .. } | UserNetError::NotUp { .. } | UserNetError::Netlink(_) => {
            Error::new(ErrorCode::Internal, "the user-mode network cannot be made").hint("smolvm doctor, or use --net none")
        }
    };
    error.because(e)
}
