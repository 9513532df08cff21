//! The ledger's file: `SQLite`, shared by every smolvm command and monitor of one installation.
//!
//! ```text
//!   Store ── read ──► Row::{Whole, Broken}       a row that does not parse is shown, never acted on
//!     └──── write ──► Writing (BEGIN IMMEDIATE)  one transaction, one fsync or none, never across an effect
//! ```
//!
//! Invariants: WAL, `synchronous=FULL` (an intent that a power cut loses while its file survives is
//! a leak) but where all that a transaction is about ends with the power, foreign keys RESTRICT; a newer schema is refused; readers take no lock of ours.

mod aside;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identity;
mod listing;
mod log;
mod open;
mod read;
mod record;
mod twin;
mod write;

pub use aside::set_aside;
pub use listing::{Holds, Listed};
pub use open::{SCHEMA_VERSION, Store};
pub use read::Found;
pub use record::{
    BrokenPlace, BrokenRow, Exit, Failure, Run, SandboxRecord, SharedPart, Step, Surroundings, Table, spec_from_json, spec_to_json,
};
pub use write::{NewSandbox, Writing};

use std::path::PathBuf;

use smolvm_model::ledger::Kind;

use crate::effect::Fault;

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its directory or file cannot be made, opened or written.
    #[error("the state database {} cannot be opened", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// The reason.
        source: rusqlite::Error,
    },
    /// It is not a database, or damaged.
    #[error("the state database {} is damaged", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` says.
        source: rusqlite::Error,
    },
    /// One row of it is not what smolvm writes; the others are sound.
    #[error("the row of {raw_id:?} in the state database is no valid row: {problem}")]
    BrokenRow {
        /// The text in its id column.
        raw_id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer smolvm made it.
    #[error("the state database {} has version {found}, and this smolvm knows up to {known}", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The file or its directory cannot be written.
    #[error("the state database cannot be written")]
    ReadOnly,
    /// Somebody else kept it locked for longer than the busy timeout.
    #[error("the state database is locked by another process")]
    Busy,
    /// The sandbox's name is taken.
    #[error("the name is taken")]
    NameTaken,
    /// A reserved key is taken by another sandbox.
    #[error("the {kind} {key} is taken")]
    KeyTaken {
        /// What kind of resource.
        kind: Kind,
        /// Which one.
        key: String,
    },
    /// The row changed since it was read.
    #[error("another command changed the sandbox meanwhile")]
    Changed,
    /// Entries are still recorded under the row.
    #[error("the ledger still has entries of this sandbox")]
    StillHeld,
    /// Anything else `SQLite` reports.
    #[error("a database operation failed")]
    Sql {
        /// What `SQLite` says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether the file itself is at fault: no command will ever get on with it.
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode as C;
        match self {
            Self::Corrupt { .. } => true,
            Self::Sql { source } => matches!(source.sqlite_error_code(), Some(C::DatabaseCorrupt | C::NotADatabase)),
            Self::Open { .. }
            | Self::BrokenRow { .. }
            | Self::Newer { .. }
            | Self::Full
            | Self::ReadOnly
            | Self::Busy
            | Self::NameTaken
            | Self::KeyTaken { .. }
            | Self::Changed
            | Self::StillHeld => false,
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as C;
        match source.sqlite_error_code() {
            Some(C::DiskFull) => Self::Full,
            _ if is_out_of_room(&source) => Self::Full,
            Some(C::ReadOnly | C::CannotOpen) => Self::ReadOnly,
            Some(C::DatabaseBusy | C::DatabaseLocked) => Self::Busy,
            _ => Self::Sql { source },
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault.source.kind() {
            std::io::ErrorKind::StorageFull => Self::Full,
            std::io::ErrorKind::PermissionDenied => Self::ReadOnly,
            std::io::ErrorKind::ResourceBusy | std::io::ErrorKind::TimedOut => Self::Busy,
            _ => {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
                Self::Sql { source: rusqlite::Error::SqliteFailure(code, Some(fault.to_string())) }
            }
        }
    }
}

/// The index of the log (`-shm`) could not be made as long as it must be: that is said as an I/O error of its own.
fn is_out_of_room(source: &rusqlite::Error) -> bool {
    source.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}
