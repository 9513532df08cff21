//! Files: made privately, replaced atomically, removed beneath a directory and through no symlink, and not waited for without end.

mod behind;
mod copy;
mod patient;
mod remove;
mod segment;
mod usage;
mod write;

pub(crate) use behind::WriteBehind;
pub use copy::{copy_data, copy_data_around, copy_sparse};
pub(crate) use copy::{copy_data_of, copy_data_to_disk};
pub use patient::patiently;
pub use remove::{Removed, remove_tree};
pub(crate) use segment::{data_blocks, data_from, in_pieces};
pub use usage::{Tally, disk_usage};
pub(crate) use write::is_temporary;
#[cfg(test)]
pub(crate) use write::temporary_for;
pub use write::{cache_file, create_private_dir, sync_dir, write_atomic, write_whole};

use std::path::{Path, PathBuf};

use crate::effect::Fault;

/// A file operation that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FsError {
    /// What was to be done, as a verb that reads before the path.
    pub action: &'static str,
    /// To which file.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: std::io::Error,
}

impl From<Fault> for FsError {
    fn from(fault: Fault) -> Self {
        Self { action: "pass", path: PathBuf::from(fault.point.to_string()), source: fault.source }
    }
}

impl FsError {
    /// For `map_err`: names the action and the path.
    pub fn on(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }

    /// Whether the disk (or the user's quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge)
    }
}
