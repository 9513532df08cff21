//! `list`: every sandbox, in order of creation.

use std::collections::HashSet;

use smolvm_host::store::{BrokenRow, Listed, Table};
use smolvm_model::ledger::Entry;

use crate::cleanup::glimpse;
use crate::error::Error;
use crate::halves::halves;
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
    /// Directories and TAPs with this installation's mark whose sandbox is in no record; `doctor` looks for more.
    pub orphans: Vec<Unrecorded>,
}

/// Something on the host that no record knows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unrecorded {
    /// The sandbox in its mark.
    pub id: String,
    /// What it is.
    pub kind: &'static str,
    /// Which one.
    pub key: String,
}

/// The same of many, made into something else as it is read.
#[derive(Debug, Clone)]
pub struct Parts<R> {
    /// What was made of the sandboxes, part by part in their order.
    pub parts: Vec<R>,
    /// As in [`Listing`].
    pub broken: Vec<BrokenRow>,
    /// As in [`Listing`].
    pub orphans: Vec<Unrecorded>,
}

impl Smolvm {
    /// Every sandbox, held against the host. Changes nothing.
    pub fn list(&self) -> Result<Listing, Error> {
        let Parts { parts, broken, orphans } = self.list_in_parts(|views| views.collect::<Vec<_>>())?;
        Ok(Listing { sandboxes: parts.into_iter().flatten().collect(), broken, orphans })
    }

    /// The same, with `make` called for one part of the sandboxes after the other, or for two at the same time: ten thousand
    /// need not be there at once to be written out.
    pub fn list_in_parts<R: Send>(&self, make: impl Fn(&mut dyn Iterator<Item = SandboxView>) -> R + Sync) -> Result<Parts<R>, Error> {
        let Some(store) = self.look()? else {
            return Ok(Parts {
                parts: Vec::new(),
                broken: Vec::new(),
                orphans: glimpse(self, |_| false).into_iter().map(unrecorded).collect(),
            });
        };
        let (rows, broken) = store.listing()?;
        let ids: HashSet<&str> =
            rows.iter().map(|row| row.record.id.as_str()).chain(broken.iter().map(|row| row.raw_id.as_str())).collect();
        let mut orphans = glimpse(self, |id| ids.contains(id.as_str()));
        // One that is made right now was recorded since the look.
        orphans.retain(|entry| matches!(store.sandbox(&entry.sandbox), Ok(None)));
        let pids = Pids::for_records(self, rows.len());
        let shown = |Listed { record, holds }: &Listed| {
            let verdict = self.verdict_among(&pids, record, holds.process.as_ref(), Looker::Passer);
            view(record, holds, &verdict)
        };
        let parts = halves(&rows, |rows| make(&mut rows.iter().map(shown)));
        Ok(Parts { parts, broken, orphans: orphans.into_iter().map(unrecorded).collect() })
    }
}

fn unrecorded(entry: Entry) -> Unrecorded {
    Unrecorded { id: entry.sandbox.to_string(), kind: entry.kind.as_str(), key: entry.key }
}

/// The entries of each sandbox; the table holds them sorted by sandbox.
pub(crate) fn by_sandbox(table: &Table) -> std::collections::HashMap<&str, &[Entry]> {
    table.entries.chunk_by(|a, b| a.sandbox == b.sandbox).filter_map(|chunk| chunk.first().map(|e| (e.sandbox.as_str(), chunk))).collect()
}
