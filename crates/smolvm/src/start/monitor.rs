//! Starts the monitor, tells it what it is to run, and hands over what was made for that.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use serde::Serialize;
use smolvm_host::image::template::Opened;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use super::Steps;
use crate::error::{Error, io_code};
use crate::installation::Smolvm;
use crate::monitor::{MonitorConfig, handover};
use crate::paths::MONITOR_LOG;

impl Smolvm {
    /// Starts the monitor in a process group of its own, out of reach of a terminal's Ctrl-C, its standard output a socket to this process, and
    /// tells it what it is to run.
    pub(super) fn spawn_monitor(&self, id: &SandboxId, config: &MonitorConfig) -> Result<MonitorProcess, Error> {
        let (socket, theirs) = UnixStream::pair().map_err(no_monitor)?;
        let log = self.paths().sandbox(id).join(MONITOR_LOG);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(no_monitor)?;
        #[expect(clippy::disallowed_methods, reason = "no tool to be waited for, but this program again, to stay")]
        let mut command = std::process::Command::new(&self.settings.program);
        command.arg0("smolvm").arg("monitor").arg(self.mark(id).to_string()).arg("--token").arg(&config.token);
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).stderr(log);
        let child = command.spawn().map_err(no_monitor)?;
        // The command's own copy of the socket's other end goes with it, or its end would never be seen.
        drop(command);
        deliver(handover::tell(&socket, &json(config)?))?;
        Ok(MonitorProcess { child, socket })
    }
}

/// A monitor that waits for what is made for it; it ends when the socket does.
pub(super) struct MonitorProcess {
    pub(super) child: Child,
    pub(super) socket: UnixStream,
}

/// Hands over to a monitor what was made for what it runs, with where the time went until then.
///
/// A template goes along as a handle: its files are of one making, whatever takes its place meanwhile. If they are removed
/// before the monitor has opened them, the sandbox boots instead.
pub(super) fn hand_over(socket: &UnixStream, steps: &Steps, template: Option<&Opened>, tap: Option<&OwnedFd>) -> Result<(), Error> {
    deliver(handover::hand_over(socket, &json(steps)?, template.map(AsFd::as_fd), tap.map(AsFd::as_fd)))
}

fn json(what: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(what).map_err(|e| Error::new(ErrorCode::Internal, "the monitor cannot be told what to do").because(e))
}

/// What is said to a monitor that was killed is nobody's business: whoever waits for its report hears of that.
fn deliver(told: std::io::Result<()>) -> Result<(), Error> {
    match told {
        Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
        told => told.map_err(no_monitor),
    }
}

fn no_monitor(e: std::io::Error) -> Error {
    Error::new(io_code(&e), "the monitor cannot be started").because(e)
}
