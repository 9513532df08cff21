//! `inspect`: one sandbox with everything that is known of it.

use smolvm_host::store::Step;
use smolvm_model::name::SandboxId;

use crate::error::Error;
use crate::installation::Smolvm;
use crate::observe::Looker;
use crate::view::{SandboxView, holds_of, view};

/// What `inspect` shows.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The sandbox.
    pub sandbox: SandboxView,
    /// What the jail enforced, read back from the running process.
    pub enforced: serde_json::Value,
    /// Kernel, hypervisor and agent of the run.
    pub software: Option<Software>,
    /// What the sandbox holds on the host.
    pub holds: Vec<Holding>,
    /// Where the time of its present or last start went.
    pub steps: Vec<Step>,
}

/// Versions of one run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Software {
    /// Kernel release of the guest.
    pub kernel: String,
    /// Version of the hypervisor.
    pub hypervisor: String,
    /// Version of the agent.
    pub agent: String,
}

/// One entry of the ledger.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Holding {
    /// What it is.
    pub kind: &'static str,
    /// Which one.
    pub key: String,
    /// `reserved`, `intended` or `held`.
    pub status: &'static str,
}

impl Smolvm {
    /// One sandbox, held against the host. Changes nothing.
    pub fn inspect(&self, id: &SandboxId) -> Result<Inspection, Error> {
        let missing = || Error::no_such_sandbox(id);
        let store = self.look()?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        let verdict = self.verdict(&record, &entries, Looker::Passer);
        let run = record.run.clone();
        let run = run.as_ref();
        let shown = holds_of(&record, &entries);
        Ok(Inspection {
            sandbox: view(&record, &shown, &verdict),
            enforced: run.map_or(serde_json::Value::Null, |r| r.enforced.clone()),
            steps: run.map_or_else(Vec::new, |r| r.steps.clone()),
            software: run.map(|r| Software { kernel: r.kernel.clone(), hypervisor: r.hypervisor.clone(), agent: r.agent.clone() }),
            holds: entries.iter().map(|e| Holding { kind: e.kind.as_str(), key: e.key.clone(), status: e.status.as_str() }).collect(),
        })
    }
}
