//! A sandbox as users and scripts see it: the `S` of every command's output.

use std::collections::BTreeMap;

use serde::Serialize;
use smolvm_host::store::{Exit, Failure, Holds, Run, SandboxRecord};
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::spec::NetworkMode;
use smolvm_model::state::Verdict;

use crate::observe::process_of;
use crate::start::BOOTED;

/// One sandbox. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SandboxView {
    /// Its name and identity.
    pub id: String,
    /// Recorded state.
    pub state: &'static str,
    /// Recorded as having a process, and the process is proven gone.
    pub stale: bool,
    /// Evidence that could not be read, if the state could not be judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// Image name.
    pub image: String,
    /// Digest of the image's content.
    pub image_digest: String,
    /// Accelerator of the present or last run.
    pub accelerator: Option<String>,
    /// Why that accelerator.
    pub accelerator_reason: Option<String>,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// Size of the data disk.
    pub disk_bytes: u64,
    /// `template` or `cold`: how the present or last run began.
    pub started_from: String,
    /// Which template, or why none.
    pub started_from_reason: Option<String>,
    /// Whether the image's own init is booted beside the agent.
    pub init: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Creation, RFC 3339.
    pub created_at: String,
    /// When its time to live passes, RFC 3339.
    pub expires_at: Option<String>,
    /// The processes of a run.
    pub process: Option<ProcessView>,
    /// Its network.
    pub network: Option<NetworkView>,
    /// How the last run ended.
    pub exit: Option<ExitView>,
    /// Why the last start or stop failed.
    pub failure: Option<FailureView>,
}

/// The processes of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessView {
    /// The hypervisor's pid as the caller sees it.
    pub pid: u32,
    /// The monitor's pid.
    pub monitor_pid: Option<u32>,
}

/// A sandbox's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NetworkView {
    /// `tap` or `user`.
    pub mode: &'static str,
    /// The guest's address.
    pub address: Option<String>,
    /// The TAP's name.
    pub tap: Option<String>,
    /// The guest's Ethernet address.
    pub mac: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExitView {
    /// `stopped`, `guest_poweroff`, `guest_reset`, `hypervisor_exit` or `hypervisor_signal`.
    pub kind: String,
    /// The hypervisor's exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When, RFC 3339.
    pub at: String,
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailureView {
    /// Stable code.
    pub code: String,
    /// For people.
    pub message: String,
    /// `start` or `stop`.
    pub during: String,
}

/// What is shown of a sandbox's entries.
pub(crate) fn holds_of(record: &SandboxRecord, entries: &[Entry]) -> Holds {
    let entry = |kind: Kind| entries.iter().find(|e| e.kind == kind && e.sandbox == record.id);
    let key = |kind: Kind| entry(kind).map(|e| e.key.clone());
    Holds {
        process: process_of(record, entries).cloned(),
        monitor_pid: entry(Kind::Monitor).and_then(|e| e.identity.as_ref()).map(|i| i.pid),
        address: key(Kind::Address),
        tap: key(Kind::Tap),
        mac: key(Kind::Mac),
    }
}

/// Puts record, entries and verdict of one look together.
pub(crate) fn view(record: &SandboxRecord, holds: &Holds, verdict: &Verdict) -> SandboxView {
    let network = match record.spec.network {
        NetworkMode::None => None,
        mode @ (NetworkMode::Tap | NetworkMode::User) => {
            Some(NetworkView { mode: mode.as_str(), address: holds.address.clone(), tap: holds.tap.clone(), mac: holds.mac.clone() })
        }
    };
    let claims = record.state.claims_process();
    let process = holds.process.as_ref().filter(|_| claims).map(|i| ProcessView { pid: i.pid, monitor_pid: holds.monitor_pid });
    // A record that was written before there were templates does not say.
    let origin = |run: &Run| Some((run.started_from.clone(), run.started_from_reason.clone())).filter(|(from, _)| !from.is_empty());
    let (started_from, started_from_reason) = record.run.as_ref().and_then(origin).unzip();
    let (accelerator, accelerator_reason) =
        record.run.as_ref().map(|run| (run.accelerator.clone(), run.accelerator_reason.clone())).unzip();
    SandboxView {
        id: record.id.to_string(),
        state: record.state.as_str(),
        stale: *verdict == Verdict::Stale,
        unknown: match verdict {
            Verdict::Unknown { evidence } => Some(evidence.clone()),
            Verdict::Current | Verdict::Stale | Verdict::Interrupted => None,
        },
        image: record.spec.image.to_string(),
        image_digest: record.spec.image_digest.clone(),
        accelerator,
        accelerator_reason,
        cpus: record.spec.cpus.get(),
        memory_mib: record.spec.memory.mib(),
        disk_bytes: record.spec.disk.bytes(),
        started_from: started_from.unwrap_or_else(|| BOOTED.to_owned()),
        started_from_reason,
        init: record.spec.init.is_some(),
        labels: record.spec.labels.iter().map(|(k, v)| (k.to_string(), v.clone())).collect(),
        created_at: crate::time::rfc3339(record.created_ms),
        expires_at: record.expires_ms.map(crate::time::rfc3339),
        process,
        network,
        exit: record.exit.as_ref().map(exit_view),
        failure: record.failure.as_ref().map(failure_view),
    }
}

fn failure_view(failure: &Failure) -> FailureView {
    FailureView { code: failure.code.clone(), message: failure.message.clone(), during: failure.during.clone() }
}

fn exit_view(exit: &Exit) -> ExitView {
    ExitView { kind: exit.kind.clone(), code: exit.code, signal: exit.signal, at: crate::time::rfc3339(exit.at_ms) }
}
