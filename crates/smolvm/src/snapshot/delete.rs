//! `snapshot delete`: sandboxes that were restored from it run on.

use smolvm_host::image::snapshot;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use super::unusable;
use crate::error::Error;
use crate::installation::Smolvm;

/// What was deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotDeletion {
    /// The names.
    pub deleted: Vec<String>,
    /// Disk that came free, unless a running sandbox still uses it.
    pub freed_bytes: u64,
}

impl Smolvm {
    /// Deletes snapshots; if one of them is not there, none is deleted. One that cannot be read can be deleted.
    pub fn delete_snapshots(&self, names: &[SandboxId]) -> Result<SnapshotDeletion, Error> {
        let root = self.paths().snapshots();
        let there = snapshot::names(&root)?;
        if let Some(name) = names.iter().find(|name| !there.contains(name)) {
            return Err(Error::new(ErrorCode::NotFound, format!("there is no snapshot \"{name}\"")).hint("smolvm snapshot list"));
        }
        let mut deletion = SnapshotDeletion::default();
        for name in names {
            let bytes = snapshot::find(&root, name).ok().flatten().map_or(0, |snapshot| snapshot.size_bytes);
            if snapshot::remove(&root, name).map_err(unusable)? {
                deletion.deleted.push(name.to_string());
                deletion.freed_bytes = deletion.freed_bytes.saturating_add(bytes);
            }
        }
        Ok(deletion)
    }
}
