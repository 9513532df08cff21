//! The ledger's log (`-wal`), which stays beside the database between commands.
//!
//! ```text
//!   written ─► written ─► … ─► longer than 512 KiB, and nobody reads ─► written back, emptied ─► written
//!   └ new: its directory is synced before                                                       └ as if it were new
//! ```
//!
//! Invariants: every transaction that has to survive a power cut is on the disk, all before it and the log's name with it, before anybody is told of
//! it; whoever writes waits for no reader.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use smolvm_model::effect::Survives;

use super::open::BUSY;
use super::{Store, StoreError};
use crate::fsx::sync_dir;

/// How long the log gets before it is written back. Whoever opens a log that nobody has open reads all of it, 0.5 µs a KiB; writing it back
/// is two syncs.
const LOG_BYTES: u64 = 512 << 10;

impl Store {
    /// Leaves the log where it is when the last of all closes the database. By default it is written back and removed then, and begun anew by
    /// whoever comes next: five syncs for each command, where most write a few pages.
    pub(super) fn keep_log(&self) -> Result<(), StoreError> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // What was written back is known to those who have the log open, and to nobody who comes when they have closed it: it would be written
        // back at each transaction from then on, and never begun anew.
        Ok(self.connection.pragma_update(None, "wal_autocheckpoint", 0)?)
    }

    /// Says whether the next transaction is synced. One that is not is in the log all the same, which no process takes back, and on the disk with
    /// the next one that is: a log is synced as a whole. A power cut leaves the ledger as it was after one of them.
    pub(super) fn sync_for(&self, survives: Survives) -> rusqlite::Result<()> {
        let level = match survives {
            Survives::Kill => "NORMAL",
            Survives::PowerCut => "FULL",
        };
        self.connection.pragma_update(None, "synchronous", level)
    }

    /// Writes a long log back, and empties it. Not while somebody reads: then the next transaction does. Nor is it a fault of the transaction
    /// that was made if there is no room for it.
    pub(super) fn shorten_log(&self) -> Result<(), StoreError> {
        if std::fs::metadata(log_of(&self.path)).is_ok_and(|log| log.len() > LOG_BYTES) {
            self.connection.busy_timeout(Duration::ZERO)?;
            let _ = self.write_back();
            self.connection.busy_timeout(BUSY)?;
        }
        Ok(())
    }

    pub(super) fn write_back(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Before the first transaction of a log that is new, or was emptied: makes its name last as its content will. `SQLite` is built not to
    /// (`SQLITE_DISABLE_DIRSYNC`): it would do so once for each connection.
    pub(super) fn sync_new_log(path: &Path) -> Result<(), StoreError> {
        if !is_new(&log_of(path)) {
            return Ok(());
        }
        let no_sync = |_| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC), None);
        Ok(path.parent().map_or(Ok(()), sync_dir).map_err(no_sync)?)
    }
}

/// Whether a log lies beside the database.
pub(super) fn has_log(path: &Path) -> bool {
    log_of(path).exists()
}

/// Whether nothing was written to a log since it was made or emptied.
fn is_new(log: &Path) -> bool {
    std::fs::metadata(log).map_or(true, |log| log.len() == 0)
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use smolvm_model::effect::Commit;

    use super::super::Writing;
    use super::super::open::Unwritable;
    use super::*;

    #[test]
    fn the_log_stays_does_not_grow_and_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let log = || std::fs::metadata(log_of(&path)).unwrap().len();
        let mut emptied = 0;
        for word in 0..300 {
            let mut store = Store::open(&path).unwrap();
            store.write(Commit::Settled, |w| w.set_meta("last", &word.to_string())).unwrap();
            assert!(log() <= LOG_BYTES);
            emptied += u32::from(log() == 0);
        }
        assert_eq!(emptied, 2, "300 pages");
        assert!(log() > 0);
        for store in [Store::open(&path).unwrap(), Store::open_unwritable(&path, Unwritable::Full).unwrap()] {
            assert_eq!(store.meta("last").unwrap().as_deref(), Some("299"));
        }
    }

    #[test]
    fn a_log_that_is_read_is_written_back_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let log = || std::fs::metadata(log_of(&path)).unwrap().len();
        let mut store = Store::open(&path).unwrap();
        store.write(Commit::Settled, |w| w.set_meta("last", "before")).unwrap();
        let reader = Store::look(&path).unwrap().unwrap();
        let look = reader.connection.unchecked_transaction().unwrap();
        assert_eq!(reader.meta("last").unwrap().as_deref(), Some("before"));
        let begun = Instant::now();
        store.write(Commit::Settled, |w| w.set_meta("last", &"x".repeat(1 << 20))).unwrap();
        assert!(log() > LOG_BYTES && begun.elapsed() < BUSY, "whoever writes waits for no reader");
        assert_eq!(reader.meta("last").unwrap().as_deref(), Some("before"));
        drop(look);
        store.write(Commit::Settled, |w| w.set_meta("last", "after")).unwrap();
        assert_eq!(log(), 0);
        assert_eq!(reader.meta("last").unwrap().as_deref(), Some("after"));
    }

    #[test]
    fn what_has_to_survive_a_power_cut_is_synced_and_what_ends_with_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        // 1 is NORMAL and 2 is FULL: what SQLite does at the end of this transaction.
        let mut level = |commit| store.write(commit, |w: &Writing<'_>| w.synchronous()).unwrap();
        let levels = [Commit::Create, Commit::Start, Commit::Raised, Commit::Launched, Commit::Ready, Commit::Settled].map(&mut level);
        assert_eq!(levels, [2, 1, 2, 1, 1, 2]);
        for commit in Commit::ALL {
            // All that a run makes ends with the power, but for its disk, which is in a directory that is on record as a whole.
            let of_a_run = commit.intends().iter().all(|effect| Commit::Start.intends().contains(effect));
            assert!(commit.survives() == Survives::PowerCut || of_a_run, "{commit:?}");
        }
    }

    /// When its name is synced, which no test can see.
    #[test]
    fn a_log_is_new_until_something_is_written_and_again_when_it_was_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let log = log_of(&path);
        assert!(is_new(&log));
        let mut store = Store::open(&path).unwrap();
        assert!(is_new(&log) && has_log(&path), "the tables were written back");
        store.write(Commit::Settled, |w| w.set_meta("a", "b")).unwrap();
        assert!(!is_new(&log));
        store.write_back().unwrap();
        assert!(is_new(&log));
    }
}
