//! `snapshot list` and `snapshot inspect`.

use serde::Serialize;
use smolvm_host::image::snapshot::{self, Kind, Snapshot};
use smolvm_model::name::SandboxId;

use super::unusable;
use super::verdict::Difference;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::time::rfc3339;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SnapshotView {
    /// Its name.
    pub name: String,
    /// `machine` or `disk`.
    pub kind: &'static str,
    /// The sandbox it is of.
    pub sandbox: String,
    /// The snapshot or sandbox which that one came from.
    pub parent: Option<String>,
    /// The image's name.
    pub image: String,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// Size of the data disk.
    pub disk_bytes: u64,
    /// `tap`, `user` or `none`.
    pub network: String,
    /// Disk that it takes.
    pub size_bytes: u64,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// One snapshot in full.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotDetails {
    /// What is listed.
    pub snapshot: SnapshotView,
    /// Why it cannot go on with its memory here; empty if it can, or has none.
    pub differences: Vec<Difference>,
    /// The file that is damaged, if all of it was read and one was.
    pub damaged: Option<String>,
}

/// How closely a snapshot is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// What it says of itself.
    Manifest,
    /// Every byte of it, held against the digests.
    Content,
}

impl Smolvm {
    /// Every snapshot, the newest first. Changes nothing.
    pub fn snapshots(&self) -> Result<Vec<SnapshotView>, Error> {
        let found = snapshot::list(&self.paths().snapshots()).map_err(unusable)?;
        Ok(found.into_iter().map(SnapshotView::of).collect())
    }

    /// One of them, and whether it could be restored here.
    pub fn inspect_snapshot(&self, name: &SandboxId, look: Look) -> Result<SnapshotDetails, Error> {
        let snapshot = self.snapshot_named(name)?;
        let differences = match snapshot.kind {
            Kind::Machine => self.differences(&snapshot)?,
            Kind::Disk => Vec::new(),
        };
        let damaged = match look {
            Look::Manifest => None,
            Look::Content => snapshot.damage().map_err(unusable)?,
        };
        Ok(SnapshotDetails { snapshot: SnapshotView::of(snapshot), differences, damaged })
    }
}

impl SnapshotView {
    pub(super) fn of(snapshot: Snapshot) -> Self {
        let spec = snapshot.origin.spec;
        let made = i64::try_from(snapshot.created_unix).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        Self {
            name: snapshot.name.to_string(),
            kind: snapshot.kind.as_str(),
            sandbox: snapshot.origin.sandbox.to_string(),
            parent: snapshot.origin.parent.map(|parent| parent.to_string()),
            image: spec.image.to_string(),
            cpus: spec.cpus.get(),
            memory_mib: spec.memory.mib(),
            disk_bytes: spec.disk.bytes(),
            network: spec.network.to_string(),
            size_bytes: snapshot.size_bytes,
            created_at: rfc3339(made),
        }
    }
}
