//! What the databases beneath the scope's directories hold, read through their own library.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::{Bag, Scope, add, files, tolerated};

/// What an installation is, whether it has sandboxes or not: its address pool, its range of uids.
const STAYS: &[&str] = &["row:meta"];

pub(super) fn look(scope: &Scope<'_>) -> Result<Bag> {
    let mut bag = Bag::new();
    for directory in &scope.directories {
        for (kind, path) in files::walk(directory)? {
            if kind == "file" && path.extension().is_some_and(|extension| extension == "db") && is_database(&path) {
                read(scope, &path, &mut bag).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(bag)
}

/// A file that a test filled with rubbish holds no rows.
fn is_database(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
}

fn read(scope: &Scope<'_>, path: &Path, bag: &mut Bag) -> Result<()> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // The files stay as they are.
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    database.busy_timeout(Duration::from_secs(5))?;
    database.pragma_update(None, "query_only", true)?;
    let tables: Vec<String> = database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for table in &tables {
        let name = format!("row:{table}");
        if tolerated(STAYS, &name) || tolerated(&scope.tolerated, &name) {
            continue;
        }
        let mut statement = database.prepare(&format!("SELECT * FROM \"{}\"", table.replace('"', "\"\"")))?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut text = table.clone();
            for (index, column) in columns.iter().enumerate() {
                text.extend([" ", column, "=", &shown(row.get_ref(index)?)]);
            }
            add(bag, text);
        }
    }
    Ok(())
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).chars().take(80).collect(),
        ValueRef::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_stay_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let database = Connection::open(directory.path().join("state.db")).unwrap();
        database.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE sandbox (id TEXT, n INTEGER); CREATE TABLE meta (k TEXT); CREATE TABLE odd (k TEXT)").unwrap();
        std::fs::write(directory.path().join("rubbish.db"), "not a database").unwrap();
        let before = look(&Scope::home(directory.path())).unwrap();
        assert!(before.is_empty());
        database
            .execute_batch("INSERT INTO sandbox VALUES ('vm-a', 7); INSERT INTO meta VALUES ('x'); INSERT INTO odd VALUES ('y')")
            .unwrap();
        let after = look(&Scope::home(directory.path()).tolerate("row:odd")).unwrap();
        assert_eq!(after.into_keys().collect::<Vec<_>>(), ["sandbox id=vm-a n=7"]);
    }
}
