//! Opens the database and brings it to the present version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StoreError;

/// The schema this program writes.
pub const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
/// Longer than the longest transaction of another process: a batch of 1,000 sandboxes takes about 50 ms.
const BUSY: Duration = Duration::from_secs(5);

/// An open database.
#[derive(Debug)]
pub struct Store {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
}

impl Store {
    /// Opens the database at `path`, and makes it if there is none.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
    }

    /// Opens the database at `path` if there is one; makes nothing.
    pub fn open_existing(path: &Path) -> Result<Option<Self>, StoreError> {
        match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // Any other trouble is for SQLite to name.
            Ok(_) | Err(_) => match Self::with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE) {
                Err(StoreError::Open { .. } | StoreError::ReadOnly) => Self::open_unwritable(path).map(Some),
                other => other.map(Some),
            },
        }
    }

    /// Opens a database whose file system is read-only, so that what is there can at least be told.
    ///
    /// WAL needs a writable directory even for reading; `immutable` does without, and sees what the
    /// last writer had checkpointed. Every write through it fails as read-only.
    fn open_unwritable(path: &Path) -> Result<Self, StoreError> {
        let named = |source| StoreError::Open { path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(immutable_uri(path), flags).map_err(named)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(named)?;
        if version == SCHEMA_VERSION {
            Ok(Self { connection, path: path.to_owned() })
        } else {
            Err(StoreError::Newer { path: path.to_owned(), found: version, known: SCHEMA_VERSION })
        }
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn with_flags(path: &Path, access: OpenFlags) -> Result<Self, StoreError> {
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let named = |source: rusqlite::Error| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Corrupt { path: path.to_owned(), source },
            Some(ErrorCode::DiskFull) => StoreError::Full,
            _ => StoreError::Open { path: path.to_owned(), source },
        };
        let connection = Connection::open_with_flags(path, flags).map_err(named)?;
        let mut store = Self { connection, path: path.to_owned() };
        store.prepare().map_err(|e| match e {
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

    fn prepare(&mut self) -> Result<(), StoreError> {
        self.connection.busy_timeout(BUSY)?;
        let version: i64 = self.connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found: version, known: SCHEMA_VERSION });
        }
        self.connection.execute_batch("PRAGMA foreign_keys=ON; PRAGMA synchronous=FULL;")?;
        if version < SCHEMA_VERSION {
            self.migrate()?;
        }
        Ok(())
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        use std::os::unix::fs::PermissionsExt;
        // Before the first row: the umask of whoever runs this decides nothing.
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o600)).map_err(|_| StoreError::ReadOnly)?;
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        let tx = self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        // Another process may have been here between the look and the lock.
        let version: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        tx.commit()?;
        Ok(())
    }
}

/// A URI for any path: every byte that is no plain character of a path is escaped.
fn immutable_uri(path: &Path) -> String {
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
    uri + "?immutable=1"
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

    #[test]
    fn looking_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::open_existing(&dir.path().join("state.db")).unwrap().is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
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
