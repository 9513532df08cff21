//! `stats`: what running sandboxes use of the host.

use serde::Serialize;
use smolvm_host::disk::Chain;
use smolvm_host::proc::usage::{self, Usage};
use smolvm_host::store::Listed;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::state::Verdict;

use crate::error::Error;
use crate::installation::Smolvm;
use crate::observe::{Looker, Pids};

/// What one running sandbox uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatsView {
    /// Its name.
    pub id: String,
    /// Recorded state.
    pub state: &'static str,
    /// Memory of hypervisor and monitor that nobody else has: what the guest wrote, and what they need themselves.
    pub own_bytes: u64,
    /// Memory that is backed by files: the template's, programs and libraries. It is shared with other sandboxes, or the kernel may drop it.
    pub shared_bytes: u64,
    /// Processor time since its start.
    pub cpu_ms: u64,
    /// What its disk takes of the host's.
    pub disk_used_bytes: u64,
}

impl Smolvm {
    /// What these sandboxes use, or all that run. One that is asked for and does not run is an error.
    pub fn stats(&self, ids: &[SandboxId]) -> Result<Vec<StatsView>, Error> {
        let rows = self.look()?.map(|store| store.listing()).transpose()?.map(|(rows, _)| rows).unwrap_or_default();
        if let Some(id) = ids.iter().find(|id| !rows.iter().any(|row| row.record.id == **id)) {
            return Err(Error::no_such_sandbox(id));
        }
        let pids = Pids::for_records(self, rows.len());
        let mut shown = Vec::new();
        for row in rows.iter().filter(|row| ids.is_empty() || ids.contains(&row.record.id)) {
            match self.usage_of(&pids, row)? {
                Some(stats) => shown.push(stats),
                None if ids.is_empty() => {}
                None => {
                    let id = &row.record.id;
                    return Err(
                        Error::new(ErrorCode::InvalidState, format!("sandbox \"{id}\" is not running")).hint(format!("smolvm start {id}"))
                    );
                }
            }
        }
        Ok(shown)
    }

    fn usage_of(&self, pids: &Pids, row: &Listed) -> Result<Option<StatsView>, Error> {
        let Listed { record, holds } = row;
        let Some(process) = holds.process.as_ref().filter(|_| record.state.claims_process()) else { return Ok(None) };
        if self.verdict_among(pids, record, Some(process), Looker::Passer) != Verdict::Current {
            return Ok(None);
        }
        let mut used = Usage::default();
        for pid in [Some(process.pid), holds.monitor_pid].into_iter().flatten() {
            let seen = usage::look(self.proc(), pid).map_err(|e| {
                Error::new(ErrorCode::PermissionDenied, format!("what process {pid} of \"{}\" uses cannot be read", record.id))
                    .hint("run it as who started the sandbox")
                    .because(e)
            })?;
            let Some(seen) = seen else { return Ok(None) };
            used = used + seen;
        }
        let disk = Chain::read(&self.paths().disk(&record.id)).map_or(0, |chain| chain.blocks());
        Ok(Some(StatsView {
            id: record.id.to_string(),
            state: record.state.as_str(),
            own_bytes: used.own_bytes,
            shared_bytes: used.shared_bytes,
            cpu_ms: used.cpu_ms,
            disk_used_bytes: disk,
        }))
    }
}
