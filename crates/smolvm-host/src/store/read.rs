//! Looks at the ledger without locking anybody out.

use rusqlite::{OptionalExtension, Row};
use smolvm_model::ledger::Entry;
use smolvm_model::name::SandboxId;

use super::record::{BrokenPlace, BrokenRow, SandboxRecord, SharedPart, Table, identity_from_json, spec_from_json};
use super::{Store, StoreError};

const SANDBOX: &str = "SELECT seq, id, state, generation, spec, created_ms, expires_ms, run, failure, exit FROM sandbox";
const LEDGER: &str = "SELECT kind, key, sandbox, status, identity FROM ledger";

impl Store {
    /// Everything there is, in one consistent look.
    pub fn table(&self) -> Result<Table, StoreError> {
        // One read transaction: rows and entries of the same moment.
        let tx = self.connection.unchecked_transaction()?;
        let mut table = Table::default();
        let mut statement = tx.prepare_cached(&format!("{SANDBOX} ORDER BY seq"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match sandbox(row)? {
                Ok(record) => table.sandboxes.push(record),
                Err(broken) => table.broken.push(broken),
            }
        }
        let mut statement = tx.prepare_cached(&format!("{LEDGER} ORDER BY sandbox, kind, key"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match entry(row)? {
                Ok(entry) => table.entries.push(entry),
                Err(broken) => table.broken.push(broken),
            }
        }
        Ok(table)
    }

    /// One sandbox and its entries; `None` when there is none of that id.
    pub fn sandbox(&self, id: &SandboxId) -> Result<Option<(SandboxRecord, Vec<Entry>)>, StoreError> {
        let tx = self.connection.unchecked_transaction()?;
        let found = tx.prepare_cached(&format!("{SANDBOX} WHERE id = ?1"))?.query_row([id.as_str()], |row| Ok(sandbox(row))).optional()?;
        let Some(found) = found else { return Ok(None) };
        let record = found?.map_err(broken_row)?;
        let mut statement = tx.prepare_cached(&format!("{LEDGER} WHERE sandbox = ?1 ORDER BY kind, key"))?;
        let mut rows = statement.query([id.as_str()])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(entry(row)?.map_err(broken_row)?);
        }
        Ok(Some((record, entries)))
    }

    /// What all sandboxes share on the host.
    pub fn shared_parts(&self) -> Result<Vec<SharedPart>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT kind, key, before, after FROM shared ORDER BY kind, key")?;
        let rows = statement
            .query_map([], |row| Ok(SharedPart { kind: row.get(0)?, key: row.get(1)?, before: row.get(2)?, after: row.get(3)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One setting of the installation.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()?)
    }

    /// How many sandboxes there are, broken rows included.
    pub fn count(&self) -> Result<u64, StoreError> {
        let count: i64 = self.connection.query_row("SELECT count(*) FROM sandbox", [], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

fn broken_row(row: BrokenRow) -> StoreError {
    StoreError::BrokenRow { raw_id: row.raw_id.chars().take(100).collect(), problem: row.problem }
}

type Parsed<T> = Result<T, BrokenRow>;

fn sandbox(row: &Row<'_>) -> Result<Parsed<SandboxRecord>, rusqlite::Error> {
    let raw_id: String = row.get(1)?;
    let (state, spec): (String, String) = (row.get(2)?, row.get(4)?);
    let (run, failure, exit): (Option<String>, Option<String>, Option<String>) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let broken = |problem: String| BrokenRow { raw_id: raw_id.clone(), problem, place: BrokenPlace::Sandbox };
    let (seq, generation, created_ms, expires_ms) = (row.get(0)?, row.get(3)?, row.get(5)?, row.get(6)?);
    let parse = || {
        Ok(SandboxRecord {
            id: raw_id.parse().map_err(|e| broken(format!("{e}")))?,
            seq,
            state: state.parse().map_err(|e| broken(format!("{e}: {state:?}")))?,
            generation,
            spec: spec_from_json(&spec).map_err(broken)?,
            created_ms,
            expires_ms,
            run: optional(run.as_deref()).map_err(broken)?,
            failure: optional(failure.as_deref()).map_err(broken)?,
            exit: optional(exit.as_deref()).map_err(broken)?,
        })
    };
    Ok(parse())
}

fn optional<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(serde_json::from_str).transpose().map_err(|e| e.to_string())
}

fn entry(row: &Row<'_>) -> Result<Parsed<Entry>, rusqlite::Error> {
    let (kind, key, raw_id, status): (String, String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let identity: Option<String> = row.get(4)?;
    let place = BrokenPlace::Entry { kind: kind.clone(), key: key.clone() };
    let broken = |problem: String| BrokenRow { raw_id: raw_id.clone(), problem, place: place.clone() };
    let parse = || {
        Ok(Entry {
            sandbox: raw_id.parse().map_err(|e| broken(format!("{e}")))?,
            kind: kind.parse().map_err(|e| broken(format!("{e}: {kind:?}")))?,
            key: key.clone(),
            status: status.parse().map_err(|e| broken(format!("{e}: {status:?}")))?,
            identity: identity.as_deref().map(identity_from_json).transpose().map_err(broken)?,
        })
    };
    Ok(parse())
}
