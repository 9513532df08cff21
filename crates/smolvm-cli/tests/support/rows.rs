//! The ledger, read and written behind the product's back.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use serde_json::Value;

use super::Place;

/// The database, whose files stay as they are if nothing is written.
pub(crate) fn open(place: &Place) -> Connection {
    let database = Connection::open(place.path("state/state.db")).expect("the ledger");
    database.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("a setting");
    database.busy_timeout(super::SOON).expect("a timeout");
    database.pragma_update(None, "foreign_keys", false).expect("a pragma");
    database
}

/// Sets the recorded state of a sandbox.
pub(crate) fn set_state(place: &Place, id: &str, state: &str) {
    let changed = open(place).execute("UPDATE sandbox SET state = ?2, generation = generation + 1 WHERE id = ?1", params![id, state]);
    assert_eq!(changed.expect("an update"), 1, "no row {id}");
}

/// What is recorded of the hypervisor: pid, start, boot and token.
pub(crate) fn identity(place: &Place, id: &str) -> Value {
    let text: String = open(place)
        .query_row("SELECT identity FROM ledger WHERE sandbox = ?1 AND kind = 'process'", [id], |row| row.get(0))
        .expect("an identity");
    serde_json::from_str(&text).expect("JSON")
}

/// Changes one field of it.
pub(crate) fn set_identity(place: &Place, id: &str, field: &str, to: impl Into<Value>) {
    let mut value = identity(place, id);
    assert!(value.get(field).is_some(), "no field {field}: {value}");
    value[field] = to.into();
    let changed =
        open(place).execute("UPDATE ledger SET identity = ?2 WHERE sandbox = ?1 AND kind = 'process'", params![id, value.to_string()]);
    assert_eq!(changed.expect("an update"), 1);
}

/// Copies the row of `from` under any text as its id, with a ledger entry for a state directory.
pub(crate) fn insert_like(place: &Place, from: &str, id: &str) {
    let database = open(place);
    let copy = "INSERT INTO sandbox (id, state, generation, spec, created_ms) SELECT ?2, state, generation, spec, created_ms FROM sandbox WHERE id = ?1";
    assert_eq!(database.execute(copy, params![from, id]).expect("a copy"), 1, "no row {from}");
    let entry = "INSERT INTO ledger (kind, key, sandbox, status) VALUES ('state_dir', ?1, ?1, 'held')";
    database.execute(entry, [id]).expect("an entry");
}

/// The ids of all rows, as they stand there.
pub(crate) fn ids(place: &Place) -> Vec<String> {
    let read = |database: &Connection| -> rusqlite::Result<Vec<String>> {
        let mut query = database.prepare("SELECT id FROM sandbox ORDER BY id")?;
        query.query_map([], |row| row.get(0))?.collect()
    };
    // One after the other: two of one process share what they have mapped.
    let rows = read(&open(place));
    rows.or_else(|_| read(&frozen(place))).expect("rows")
}

/// The database as it lies there: on a full disk `SQLite` cannot make what a shared look needs.
fn frozen(place: &Place) -> Connection {
    let uri = format!("file:{}?readonly_shm=1", place.path("state/state.db").display());
    Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI).expect("a database")
}

/// Every row of every table, for comparison.
pub(crate) fn dump(place: &Place) -> Vec<String> {
    let database = open(place);
    let mut lines = Vec::new();
    for (table, columns) in [
        ("sandbox", "seq || '|' || id || '|' || state || '|' || generation || '|' || spec || '|' || created_ms"),
        ("ledger", "kind || '|' || key || '|' || sandbox || '|' || status || '|' || coalesce(identity, '')"),
        ("shared", "kind || '|' || key || '|' || coalesce(before, '') || '|' || coalesce(after, '')"),
        ("meta", "key || '|' || value"),
    ] {
        let mut query = database.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1")).expect("a query");
        let rows = query.query_map([], |row| row.get::<_, String>(0)).expect("rows");
        lines.extend(rows.map(|line| format!("{table} {}", line.expect("text"))));
    }
    lines
}
