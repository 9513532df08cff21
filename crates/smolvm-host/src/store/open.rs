//! Opens the database and brings it to the present version.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use smolvm_model::effect::{Commit, Side};

use super::StoreError;
use super::log::has_log;
use crate::effect::reach_commit;

/// The schema this program writes.
pub const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
/// Longer than the longest transaction of another process: a batch of 1,000 sandboxes takes about 50 ms.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// A page of the database; one that was never written back has no more.
const PAGE: u64 = 4096;

/// An open database.
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// What every write is answered with, where the database can only be read.
    pub(super) unwritable: Option<Unwritable>,
}

/// Why a database can only be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritable {
    /// Its directory is.
    ReadOnly,
    /// There is no room to open it for writing.
    Full,
    /// It was opened for a look.
    Look,
}

impl From<Unwritable> for StoreError {
    fn from(why: Unwritable) -> Self {
        match why {
            Unwritable::ReadOnly | Unwritable::Look => Self::ReadOnly,
            Unwritable::Full => Self::Full,
        }
    }
}

/// What a database without tables gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// The present one.
    Make,
    /// Nothing.
    Leave,
}

impl Store {
    /// Opens the database at `path`, and makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE, Schema::Make)
    }

    /// Opens the database at `path` if there is one; makes nothing.
    ///
    /// One that cannot be written is opened for reading, and every write is answered with the reason.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        if is_absent(path) {
            return Ok(None);
        }
        match Self::with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE, Schema::Make) {
            Err(StoreError::Open { .. } | StoreError::ReadOnly) => Self::open_unwritable(path, Unwritable::ReadOnly).map(Some),
            Err(StoreError::Full) => Self::open_unwritable(path, Unwritable::Full).map(Some),
            other => other.map(Some),
        }
    }

    /// Opens the database at `path` for a look: no byte of database or log changes, and every write is
    /// refused as read-only. `None` where nothing was ever recorded.
    ///
    /// A log mostly lies beside the database. The log's index (`-shm`) is memory of all who have the log
    /// open: a look makes it and takes its place in it like anybody else. (With an index that is
    /// mapped read-only, `SQLite` would hand the same mapping to a writer in this process.)
    pub fn look(path: &Path) -> Result<Option<Self>, StoreError> {
        if is_absent(path) {
            return Ok(None);
        }
        // Without a log there is nothing to leave alone, and whoever is the last to close takes away what opening made.
        let had_log = has_log(path);
        let store = match Self::with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE, Schema::Leave) {
            Err(StoreError::Open { .. } | StoreError::ReadOnly | StoreError::Full) => Self::open_unwritable(path, Unwritable::ReadOnly)?,
            other => other?,
        };
        if had_log {
            store.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        let version: i64 = store.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        // A command was killed before its very first transaction.
        if version == 0 {
            return Ok(None);
        }
        store.connection.execute_batch("PRAGMA query_only=ON")?;
        Ok(Some(Self { unwritable: store.unwritable.or(Some(Unwritable::Look)), ..store }))
    }

    /// Opens a database whose file system is read-only or full, so that what is there can at least be told.
    ///
    /// WAL needs a writable directory even for reading, unless a log is there; its index is then made in memory. Without a log `immutable` does.
    /// With one it would show what was written back, which may be long ago: who cleans up by that removes what is not on it.
    pub(super) fn open_unwritable(path: &Path, why: Unwritable) -> Result<Self, StoreError> {
        let named = |source| StoreError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let parameters = if has_log(path) { "?readonly_shm=1" } else { "?immutable=1" };
        let connection = Connection::open_with_flags(uri(path) + parameters, flags).map_err(named)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(named)?;
        if version == SCHEMA_VERSION {
            Ok(Self { connection, path: path.to_owned(), unwritable: Some(why) })
        } else {
            Err(StoreError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION })
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with_flags(path: &Path, access: OpenFlags, schema: Schema) -> Result<Self, StoreError> {
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let named = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Corrupt { path: path.to_owned(), source },
            Some(ErrorCode::DiskFull) => StoreError::Full,
            _ => StoreError::Open { path: path.to_owned(), source },
        };
        let connection = Connection::open_with_flags(path, flags).map_err(named)?;
        let mut store = Self { connection, path: path.to_owned(), unwritable: None };
        store.prepare(schema).map_err(|e| match e {
            StoreError::Sql { source } => named(source),
            StoreError::Open { .. }
            | StoreError::Corrupt { .. }
            | StoreError::BrokenRow { .. }
            | StoreError::Newer { .. }
            | StoreError::Full
            | StoreError::ReadOnly
            | StoreError::Busy
            | StoreError::NameTaken
            | StoreError::KeyTaken { .. }
            | StoreError::Changed
            | StoreError::StillHeld => e,
        })?;
        Ok(store)
    }

    fn prepare(&mut self, schema: Schema) -> Result<(), StoreError> {
        self.connection.busy_timeout(BUSY)?;
        let version: i64 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found: version, known: SCHEMA_VERSION });
        }
        self.connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=FULL;")?;
        if schema == Schema::Leave {
            return Ok(());
        }
        // With a log beside it, it opens where nobody can write.
        if self.connection.is_readonly("main")? {
            return Err(StoreError::ReadOnly);
        }
        self.keep_log()?;
        if version < SCHEMA_VERSION {
            self.migrate()?;
        } else if std::fs::metadata(&self.path).is_ok_and(|file| file.len() <= PAGE) {
            // Whoever made it was killed before the tables were written back.
            self.write_back()?;
        }
        Ok(())
    }

    /// Switches to WAL. Another who makes the database at the same moment is waited for: this one statement is
    /// refused at once instead of after the busy timeout.
    fn write_ahead(&self) -> Result<(), StoreError> {
        let until = Instant::now() + BUSY;
        loop {
            match self.connection.pragma_update(None, "journal_mode", "WAL").map_err(StoreError::from) {
                Err(StoreError::Busy) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                done => return done,
            }
        }
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        use std::os::unix::fs::PermissionsExt;
        reach_commit(Commit::Schema, Side::Before)?;
        // Before the first row: the umask of whoever runs this decides nothing.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).map_err(|_| StoreError::ReadOnly)?;
        self.write_ahead()?;
        Self::sync_new_log(&self.path)?;
        let tx = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been here between the look and the lock.
        let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        tx.commit()?;
        // So that the file alone says what it is; whoever makes it at the same moment does that, too.
        self.write_back()?;
        Ok(reach_commit(Commit::Schema, Side::After)?)
    }
}

/// Any trouble but absence is for `SQLite` to name.
fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// A URI for any path: every byte that is no plain character of a path is escaped.
fn uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            // Writing into a String cannot fail.
            other => drop(write!(uri, "%{other:02x}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_database_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn garbage_is_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(
            &path,
            "this is no database, but it is long enough to be looked at closely by SQLite, which reads 100 bytes of header",
        )
        .unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Corrupt { .. })));
    }

    /// The first commands of an installation may all come at once.
    #[test]
    fn many_make_the_database_at_once() {
        for _ in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("state.db");
            let together = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for worker in 0..8 {
                    let (path, together) = (&path, &together);
                    scope.spawn(move || {
                        together.wait();
                        let mut store = Store::open(path).unwrap();
                        store.write(Commit::Settled, |w| w.set_meta(&format!("worker {worker}"), "was here")).unwrap();
                    });
                }
            });
            let store = Store::open(&path).unwrap();
            assert!((0..8).all(|worker| store.meta(&format!("worker {worker}")).unwrap().is_some()));
        }
    }

    #[test]
    fn looking_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::open_existing(&dir.path().join("state.db")).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A directory as a killed process leaves it: the last transaction stands in the log only.
    fn killed() -> tempfile::TempDir {
        let (dir, left) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        store.write(Commit::Settled, |w| w.set_meta("last", "word")).unwrap();
        for file in ["state.db", "state.db-wal", "state.db-shm"] {
            std::fs::copy(dir.path().join(file), left.path().join(file)).unwrap();
        }
        left
    }

    fn content(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all.into_iter().map(|path| (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap())).collect()
    }

    #[test]
    fn a_look_sees_the_last_word_of_a_killed_process_and_changes_no_byte() {
        let dir = killed();
        let path = dir.path().join("state.db");
        let lasting = || -> Vec<_> { content(dir.path()).into_iter().filter(|(name, _)| name != "state.db-shm").collect() };
        let before = lasting();
        assert_eq!(before.len(), 2);
        let mut store = Store::look(&path).unwrap().unwrap();
        assert_eq!(store.meta("last").unwrap().as_deref(), Some("word"));
        assert!(matches!(store.write(Commit::Settled, |w| w.set_meta("a", "b")), Err(StoreError::ReadOnly)));
        drop(store);
        assert!(lasting() == before, "a look changed the ledger's files");
        // The same where the index was lost.
        std::fs::remove_file(dir.path().join("state.db-shm")).unwrap();
        assert_eq!(Store::look(&path).unwrap().unwrap().meta("last").unwrap().as_deref(), Some("word"));
        assert!(lasting() == before, "a look changed the ledger's files");
        // Whoever looks and then acts has both open for a while.
        let looking = Store::look(&path).unwrap().unwrap();
        let mut writer = Store::open(&path).unwrap();
        writer.write(Commit::Settled, |w| w.set_meta("last", "after")).unwrap();
        assert_eq!(looking.meta("last").unwrap().as_deref(), Some("after"));
    }

    #[test]
    fn a_look_leaves_nothing_behind_and_sees_what_others_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        assert!(Store::look(&path).unwrap().is_none());
        let mut writer = Store::open(&path).unwrap();
        for word in ["one", "two"] {
            writer.write(Commit::Settled, |w| w.set_meta("last", word)).unwrap();
            assert_eq!(Store::look(&path).unwrap().unwrap().meta("last").unwrap().as_deref(), Some(word));
        }
        // Another program may have written the log back, and removed it.
        writer.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).unwrap();
        drop(writer);
        let before = content(dir.path());
        assert_eq!(before.len(), 1, "there is a log");
        let mut store = Store::look(&path).unwrap().unwrap();
        assert!(matches!(store.write(Commit::Settled, |w| w.set_meta("a", "b")), Err(StoreError::ReadOnly)));
        drop(store);
        assert!(content(dir.path()) == before);
        // One that was never written is as good as none, and stays as it is.
        let empty = dir.path().join("empty.db");
        std::fs::write(&empty, "").unwrap();
        assert!(Store::look(&empty).unwrap().is_none());
        assert_eq!(std::fs::read(&empty).unwrap(), b"");
    }

    /// So that whoever reads the first bytes of the file finds what it is.
    #[test]
    fn tables_that_were_not_written_back_are_by_whoever_comes_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let version = || std::fs::read(&path).unwrap()[60..64].to_vec();
        let connection = Connection::open(&path).unwrap();
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.pragma_update(None, "user_version", SCHEMA_VERSION).unwrap();
        drop(connection);
        assert_eq!(version(), [0; 4]);
        drop(Store::open(&path).unwrap());
        assert_eq!(i64::from(version()[3]), SCHEMA_VERSION);
    }

    #[test]
    fn an_index_without_room_is_a_full_disk() {
        let no_room = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
        assert!(matches!(StoreError::from(rusqlite::Error::SqliteFailure(no_room, None)), StoreError::Full));
    }

    #[test]
    fn what_can_only_be_read_says_why_it_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(Store::open(&path).unwrap());
        let write = |why| Store::open_unwritable(&path, why).unwrap().write(Commit::Settled, |w| w.set_meta("a", "b"));
        assert!(matches!(write(Unwritable::ReadOnly), Err(StoreError::ReadOnly)));
        assert!(matches!(write(Unwritable::Full), Err(StoreError::Full)));
    }

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(Store::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
