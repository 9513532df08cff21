//! Snapshots: a sandbox as it was at one moment, kept until somebody deletes it.
//!
//! ```text
//!   create   sandbox ─► copied (crate::copy) ─► synced, named                        it runs on
//!   restore  verdict ─► a sandbox of its own, with a copy of the disk ─► goes on     as often as one likes
//! ```
//!
//! A snapshot is files in the state directory and nothing else. Where its memory can no longer be used, because
//! hypervisor or processor are others, its disk still can.

mod create;
mod delete;
mod list;
mod restore;
mod verdict;

pub use create::{Saved, SnapshotRequest};
pub use delete::SnapshotDeletion;
pub use list::{Look, SnapshotDetails, SnapshotView};
pub use restore::RestoreRequest;
pub use smolvm_host::image::snapshot::Kind;
pub use verdict::Difference;

use smolvm_host::image::ImageError;
use smolvm_host::image::snapshot::{self, Snapshot};
use smolvm_host::lock::LockError;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    pub(crate) fn snapshot_named(&self, name: &SandboxId) -> Result<Snapshot, Error> {
        snapshot::find(&self.paths().snapshots(), name)
            .map_err(unusable)?
            .ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no snapshot \"{name}\"")).hint("smolvm snapshot list"))
    }
}

pub(crate) fn unusable(e: ImageError) -> Error {
    match &e {
        ImageError::Lock(LockError::Busy { .. }) => {
            Error::new(ErrorCode::Busy, "another command is at the same snapshot, or copies the same sandbox")
        }
        ImageError::NoSpace { .. } => Error::new(ErrorCode::ResourceExhausted, "there is no room for a copy").hint("smolvm cleanup; df -h"),
        ImageError::Fs(fs) if fs.is_full() => {
            Error::new(ErrorCode::ResourceExhausted, "there is no room for a copy").hint("smolvm cleanup; df -h")
        }
        ImageError::Exists { name } => Error::new(ErrorCode::AlreadyExists, format!("a snapshot \"{name}\" exists already"))
            .hint(format!("choose another name, or delete it: smolvm snapshot delete {name}")),
        _ => Error::new(ErrorCode::Internal, "the snapshot cannot be used").hint("smolvm snapshot list"),
    }
    .because(e)
}
