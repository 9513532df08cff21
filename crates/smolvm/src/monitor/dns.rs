//! The name service a TAP guest sees at its gateway, run inside the monitor's poll loop.
//!
//! It is a service, not a condition of life: a guest whose names do not resolve still runs.

use std::path::Path;
use std::time::Instant;

use rustix::event::PollFd;
use smolvm_host::net::dns::Forwarder;

use super::config::{MonitorConfig, MonitorNetwork};

const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Debug)]
pub(super) struct NameService {
    forwarder: Forwarder,
}

impl NameService {
    /// Listens for a TAP guest; the error is one for the log.
    pub(super) fn start(config: &MonitorConfig) -> Result<Option<Self>, String> {
        let Some(MonitorNetwork::Tap { tap, gateway, .. }) = &config.network else { return Ok(None) };
        let tap = tap.parse().map_err(|_| "the name of the network device is odd".to_owned())?;
        let forwarder = Forwarder::bind(*gateway, &tap, Path::new(RESOLV_CONF)).map_err(|e| e.to_string())?;
        Ok(Some(Self { forwarder }))
    }

    pub(super) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        self.forwarder.poll_fds()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.forwarder.timeout().map(|t| Instant::now() + t)
    }

    /// To be called after every wait: it keeps its own deadlines.
    pub(super) fn serve(&mut self) {
        self.forwarder.handle();
    }
}
