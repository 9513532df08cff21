//! Ends hypervisors and monitors, all together, under one deadline.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use smolvm_host::proc::identity::{self, Presence};
use smolvm_host::proc::kill;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity, Status};
use smolvm_model::teardown::Outcome;

use super::effects::{HostEffects, Patience};

/// After SIGKILL a process has only kernel work left; one that takes longer sits in uninterruptible sleep.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// The launch token's fixed place in the hypervisor's argv; the monitor carries it at the same place.
const TOKEN_AT: usize = 4;

impl HostEffects<'_> {
    /// Asks, waits, kills, waits. Each pid is opened first and proven after, so that the handle is the proof's subject.
    pub(super) fn end_processes(&self, entries: &[&Entry]) -> Vec<Outcome> {
        let unrecorded = self.find_unrecorded(entries);
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        let (mut targets, mut handles): (Vec<usize>, Vec<OwnedFd>) = (Vec::new(), Vec::new());
        for (i, entry) in entries.iter().enumerate() {
            let identity = entry.identity.as_ref().or_else(|| unrecorded.get(entry.key.as_str()));
            match identity.map_or(Target::Gone, |id| self.target(id)) {
                Target::Gone => outcomes.push(Some(Outcome::AlreadyGone)),
                Target::Unprovable(evidence) => outcomes.push(Some(Outcome::Failed { code: ErrorCode::Refused, message: evidence })),
                Target::Alive(handle) => {
                    outcomes.push(None);
                    targets.push(i);
                    handles.push(handle);
                }
            }
        }
        let ended = end_all(&handles, self.grace(entries));
        for (i, ended) in targets.into_iter().zip(ended) {
            let late = || Outcome::Failed {
                code: ErrorCode::Timeout,
                message: format!(
                    "the process did not end within {} s of SIGKILL; it may be in uninterruptible sleep",
                    AFTER_KILL.as_secs()
                ),
            };
            outcomes[i] = Some(match ended {
                Ok(true) => Outcome::Released,
                Ok(false) => late(),
                Err(message) => Outcome::Failed { code: ErrorCode::PermissionDenied, message },
            });
        }
        outcomes.into_iter().map(|o| o.unwrap_or(Outcome::AlreadyGone)).collect()
    }

    /// How long they may take before SIGKILL. QEMU answers SIGTERM within some 20 ms by flushing and ending;
    /// a monitor ends by itself once its hypervisor is gone.
    fn grace(&self, entries: &[&Entry]) -> Duration {
        let kind = entries.first().map(|e| e.kind);
        match (self.patience, kind) {
            (Patience::Orderly, _) => Duration::from_secs(2),
            (Patience::Short, Some(Kind::Monitor)) => Duration::ZERO,
            (Patience::Short, _) => Duration::from_millis(300),
        }
    }

    fn target(&self, identity: &ProcessIdentity) -> Target {
        if identity.pid == self.own_pid {
            // A monitor that takes its own sandbox down ends right after this.
            return Target::Gone;
        }
        let handle = match kill::open(identity.pid) {
            Ok(None) => return Target::Gone,
            Ok(Some(handle)) => handle,
            Err(e) => return Target::Unprovable(format!("pid {} cannot be looked at: {e}", identity.pid)),
        };
        match self.vm.presence(identity) {
            Presence::Alive => Target::Alive(handle),
            Presence::Gone | Presence::Recycled => Target::Gone,
            Presence::Unknown { evidence } => Target::Unprovable(format!("whose process it is cannot be proven: {evidence}")),
        }
    }

    /// Processes whose start was intended and never recorded, by the token in their argv.
    fn find_unrecorded(&self, entries: &[&Entry]) -> HashMap<String, ProcessIdentity> {
        let wanted: Vec<&str> =
            entries.iter().filter(|e| e.identity.is_none() && e.status != Status::Reserved).map(|e| e.key.as_str()).collect();
        let mut found = HashMap::new();
        if wanted.is_empty() {
            return found;
        }
        let proc = self.vm.proc();
        let pids = std::fs::read_dir(proc).into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.filter(|pid| *pid != self.own_pid) {
            let Ok(argv) = identity::argv(proc, pid) else { continue };
            let Some(token) = argv.get(TOKEN_AT).filter(|t| wanted.contains(&t.as_str())) else { continue };
            if let Ok(Some(seen)) = identity::look(proc, pid) {
                let id = ProcessIdentity { pid, start_ticks: seen.start_ticks, boot_id: self.vm.boot_id.clone(), token: token.clone() };
                found.insert(token.clone(), id);
            }
        }
        found
    }

    pub(super) fn process_still_there(&self, entry: &Entry) -> Option<String> {
        let identity = entry.identity.as_ref().filter(|i| i.pid != self.own_pid)?;
        match self.vm.presence(identity) {
            Presence::Alive => Some(format!("process {}", identity.pid)),
            Presence::Gone | Presence::Recycled => None,
            Presence::Unknown { evidence } => Some(format!("process {} ({evidence})", identity.pid)),
        }
    }
}

enum Target {
    Gone,
    Alive(OwnedFd),
    Unprovable(String),
}

fn end_all(handles: &[OwnedFd], grace: Duration) -> Vec<Result<bool, String>> {
    if handles.is_empty() {
        return Vec::new();
    }
    if !grace.is_zero() {
        for handle in handles {
            // Asking is a courtesy; what it cannot do, SIGKILL below does or reports.
            let _ = pidfd_send_signal(handle, Signal::TERM);
        }
    }
    let gone = kill::wait_all(handles, grace).unwrap_or_else(|_| vec![false; handles.len()]);
    let killed: Vec<Result<(), String>> =
        handles.iter().zip(&gone).map(|(h, gone)| if *gone { Ok(()) } else { kill::kill(h).map_err(|e| e.to_string()) }).collect();
    let ended = kill::wait_all(handles, AFTER_KILL);
    killed.into_iter().enumerate().map(|(i, sent)| sent.and_then(|()| ended.as_ref().map(|e| e[i]).map_err(ToString::to_string))).collect()
}
