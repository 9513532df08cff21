//! Turns a guest that waits to be told who it is into a template.
//!
//! ```text
//!   parked (agent) ─► stopped, devices written ─► the starter is told ─► the hypervisor ends: its memory is in the file
//! ```
//!
//! Nobody else has business with this monitor, so it may wait here.

use std::fs::OpenOptions;
use std::time::Duration;

use smolvm_host::engine::migration;
use smolvm_host::engine::qmp::Qmp;
use smolvm_model::error_code::ErrorCode;

use super::config::MonitorMemory;
use super::poll::Loop;
use super::ready::Phase;
use super::report::Report;
use crate::error::{Error, io_code};

/// Stopping and writing take about 10 ms.
const PATIENCE: Duration = Duration::from_secs(20);

impl Loop<'_> {
    /// The agent says that it has done all that is the same for everybody.
    pub(super) fn park(&mut self) -> Result<(), Error> {
        let (MonitorMemory::Park { devices, .. }, Phase::Booting { .. }) = (&self.config.memory, &self.phase) else { return Ok(()) };
        let fail = |e: std::io::Error| Error::new(io_code(&e), "the template cannot be written").because(e);
        let devices = OpenOptions::new().write(true).open(devices).map_err(fail)?;
        let mut qmp = Qmp::resume(self.vmm.socket.try_clone().map_err(fail)?, PATIENCE);
        migration::park(&mut qmp, devices).map_err(|e| Error::new(ErrorCode::Internal, "the template cannot be written").because(e))?;
        self.phase = Phase::Parked;
        self.reporter.finish(&Report::Parked);
        self.quit();
        Ok(())
    }
}
