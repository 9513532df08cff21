//! Starts the monitor, tells it what it is to run, and hands over what was made for that.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use serde::Serialize;
use smolvm_host::image::template::Opened;
use smolvm_host::store::{SandboxRecord, Store};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::name::SandboxId;
use smolvm_model::signal::Signal;
use smolvm_model::spec::NetworkMode;
use smolvm_proto::InitConfig;

use super::{StartPlan, Steps};
use crate::error::{Error, io_code};
use crate::installation::Smolvm;
use crate::monitor::{MonitorConfig, MonitorNetwork, handover};
use crate::network;
use crate::paths::MONITOR_LOG;

impl Smolvm {
    /// All that a monitor is told before anything is made for it.
    pub(super) fn monitor_config(
        &self,
        store: &mut Store,
        record: &SandboxRecord,
        entries: &[Entry],
        plan: &StartPlan,
    ) -> Result<MonitorConfig, Error> {
        let id = &record.id;
        Ok(MonitorConfig {
            settings: self.settings.clone(),
            id: id.to_string(),
            generation: record.generation,
            token: plan.token.to_string(),
            cpus: plan.cpus,
            memory_mib: plan.memory_mib,
            memory: plan.memory.clone(),
            accelerator: plan.run.accelerator.clone(),
            kernel: plan.kernel.clone(),
            initramfs: plan.initramfs.clone(),
            image: plan.image.clone(),
            disk_bytes: plan.disk_bytes,
            machine_id: machine_id(self, id),
            uid: entries.iter().find(|e| e.kind == Kind::Uid).and_then(|e| e.key.parse().ok()),
            network: match plan.network {
                NetworkMode::None => None,
                NetworkMode::User => Some(user_network(self, id)),
                NetworkMode::Tap => Some(network::promised(self, store, id, entries)?),
            },
            init: record.spec.init.map(|init| InitConfig { stop_signal: init.stop_signal.map(Signal::number) }),
        })
    }

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

/// One id per sandbox, the same at every start of it, and no secret.
fn machine_id(vm: &Smolvm, id: &SandboxId) -> String {
    smolvm_host::install::machine_id_for(&vm.mark(id))
}

/// In user mode each guest has a network of its own, so all have the same addresses in it (QEMU's customary ones).
fn user_network(vm: &Smolvm, id: &SandboxId) -> MonitorNetwork {
    let mac = smolvm_host::install::mac_for(&vm.mark(id)).to_string();
    MonitorNetwork::User { mac, address: Ipv4Addr::new(10, 0, 2, 15), gateway: Ipv4Addr::new(10, 0, 2, 2) }
}
