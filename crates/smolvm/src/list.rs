//! `list`: every sandbox, in order of creation.

use smolvm_host::store::{BrokenRow, Listed, Table};
use smolvm_model::ledger::Entry;

use crate::error::Error;
use crate::installation::Smolvm;
use crate::observe::{Looker, Pids};
use crate::view::{SandboxView, view};

/// What `list` shows.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The sandboxes, newest last.
    pub sandboxes: Vec<SandboxView>,
    /// Rows that are no valid sandbox.
    pub broken: Vec<BrokenRow>,
}

impl Smolvm {
    /// Every sandbox, held against the host. Changes nothing.
    pub fn list(&self) -> Result<Listing, Error> {
        let Some(store) = self.look()? else { return Ok(Listing::default()) };
        let (rows, broken) = store.listing()?;
        let pids = Pids::for_records(self, rows.len());
        let shown = |Listed { record, holds }| {
            let verdict = self.verdict_among(&pids, &record, holds.process.as_ref(), Looker::Passer);
            view(record, holds, &verdict)
        };
        let sandboxes = rows.into_iter().map(shown).collect();
        Ok(Listing { sandboxes, broken })
    }
}

/// The entries of each sandbox; the table holds them sorted by sandbox.
pub(crate) fn by_sandbox(table: &Table) -> std::collections::HashMap<&str, &[Entry]> {
    table.entries.chunk_by(|a, b| a.sandbox == b.sandbox).filter_map(|chunk| chunk.first().map(|e| (e.sandbox.as_str(), chunk))).collect()
}
