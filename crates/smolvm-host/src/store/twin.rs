//! A second connection that sees the very same moment: two threads then read one look together.
//!
//! ```text
//!   twin:   data_version = v ┐                            ┌ BEGIN, data_version = v?
//!   first:                   └ BEGIN, first row is read ──┘
//! ```
//!
//! `SQLite` raises a connection's data version whenever it meets what another one committed. As the first one's look
//! lies between the twin's two, the same number twice says that no commit lies between the two looks either.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction};

use super::open::Unwritable;
use super::{Store, StoreError};

/// From so many rows on, a second thread pays.
const ROWS: u32 = 500;
/// How often somebody may write just in between; then one connection does it alone.
const TRIES: u32 = 3;

/// One look: a transaction, and for many rows a second connection within the same moment.
pub(super) struct Look<'a> {
    pub(super) first: Transaction<'a>,
    pub(super) twin: Option<Connection>,
}

impl Store {
    /// Begins a look.
    pub(super) fn begin_look(&self) -> Result<Look<'_>, StoreError> {
        self.begin_look_while(|| {})
    }

    /// The same; `between` happens after the first looked and before its twin does.
    fn begin_look_while(&self, mut between: impl FnMut()) -> Result<Look<'_>, StoreError> {
        let mut first = self.connection.unchecked_transaction()?;
        if !has_many(&first)? {
            return Ok(Look { first, twin: None });
        }
        let Some(twin) = self.open_twin() else { return Ok(Look { first, twin: None }) };
        for _ in 0..TRIES {
            drop(first);
            let before = data_version(&twin)?;
            first = self.connection.unchecked_transaction()?;
            has_many(&first)?;
            between();
            twin.execute_batch("BEGIN")?;
            if data_version(&twin)? == before {
                return Ok(Look { first, twin: Some(twin) });
            }
            twin.execute_batch("ROLLBACK")?;
        }
        Ok(Look { first, twin: None })
    }

    /// Another connection to what this one looks at. One that cannot be had is done without.
    fn open_twin(&self) -> Option<Connection> {
        // Where nobody can write there are no moments.
        (self.unwritable == Some(Unwritable::Look)).then_some(())?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let twin = Connection::open_with_flags(&self.path, flags).ok()?;
        twin.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
        twin.execute_batch("PRAGMA query_only=ON").ok()?;
        Some(twin)
    }
}

fn has_many(connection: &Connection) -> Result<bool, StoreError> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM sandbox LIMIT 1 OFFSET ?1")?;
    Ok(statement.query_row([ROWS], |_| Ok(())).optional()?.is_some())
}

fn data_version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smolvm_model::effect::Commit;

    fn count(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM sandbox", [], |row| row.get(0)).unwrap()
    }

    fn with_rows(rows: u32) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let writer = Store::open(&dir.path().join("state.db")).unwrap();
        let rows = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO sandbox(id, state, spec, created_ms) SELECT 'vm-' || i, 'running', '', 0 FROM n"
        );
        writer.connection.execute_batch(&rows).unwrap();
        (dir, writer)
    }

    fn delete_one(writer: &mut Store) {
        let one = "DELETE FROM sandbox WHERE seq = (SELECT max(seq) FROM sandbox)";
        writer.write(Commit::Settled, |w| w.set_meta("last", "write")).unwrap();
        writer.connection.execute_batch(one).unwrap();
    }

    #[test]
    fn both_see_the_same_moment_whatever_is_written_in_between() {
        let (_dir, mut writer) = with_rows(ROWS + 50);
        let store = Store::look(writer.path()).unwrap().unwrap();
        let mut times = 0;
        let look = store
            .begin_look_while(|| {
                if times < 2 {
                    delete_one(&mut writer);
                    times += 1;
                }
            })
            .unwrap();
        let twin = look.twin.unwrap();
        assert_eq!((count(&look.first), count(&twin)), (i64::from(ROWS) + 48, i64::from(ROWS) + 48));
        delete_one(&mut writer);
        assert_eq!((count(&look.first), count(&twin)), (i64::from(ROWS) + 48, i64::from(ROWS) + 48));
        assert!(twin.execute_batch("DELETE FROM sandbox").is_err());
    }

    #[test]
    fn where_somebody_writes_all_the_time_or_there_are_few_rows_one_looks_alone() {
        let (_dir, mut writer) = with_rows(ROWS + 50);
        let store = Store::look(writer.path()).unwrap().unwrap();
        assert!(store.begin_look_while(|| delete_one(&mut writer)).unwrap().twin.is_none());
        let (_dir, writer) = with_rows(ROWS);
        let store = Store::look(writer.path()).unwrap().unwrap();
        assert!(store.begin_look().unwrap().twin.is_none());
        // Nor does one that writes: its own changes are no news to it.
        assert!(with_rows(ROWS + 50).1.begin_look().unwrap().twin.is_none());
    }
}
