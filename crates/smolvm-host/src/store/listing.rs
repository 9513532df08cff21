//! What `list` reads: every row, and of its entries only what is shown.
//!
//! ```text
//!   rows by seq ──► parsed ──┐
//!   ledger, kind by kind ────┴─► Listed        status, uids, directories and what was enforced are not read
//! ```
//!
//! With 10,000 rows the ledger has 90,000 entries: what is not shown is neither read nor parsed, and what is goes
//! to its row without a value in between. `cleanup` and `doctor` read everything.

use std::collections::HashMap;

use rusqlite::Connection;
use serde::Deserialize;
use smolvm_model::ledger::{Kind, ProcessIdentity};

use super::read::{Raw, entry, raw_rows, recorded_kinds};
use super::record::{BrokenPlace, BrokenRow, Run, SandboxRecord, identity_from_json};
use super::{Store, StoreError};

/// One row with what is shown of its entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The row; of its run, what was enforced is left out.
    pub record: SandboxRecord,
    /// What its entries say.
    pub holds: Holds,
}

/// What is shown of a sandbox's entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holds {
    /// The hypervisor.
    pub process: Option<ProcessIdentity>,
    /// The monitor's pid.
    pub monitor_pid: Option<u32>,
    /// The guest's address.
    pub address: Option<String>,
    /// The TAP's name.
    pub tap: Option<String>,
    /// The guest's Ethernet address.
    pub mac: Option<String>,
}

/// From so many rows on, a thread of its own parses them.
const PARSED_BESIDE: usize = 500;

/// A monitor is shown by its pid alone.
#[derive(Deserialize)]
struct PidJson {
    pid: u32,
}

impl Store {
    /// All rows in order of creation, in one consistent look; beside them those that are none.
    pub fn listing(&self) -> Result<(Vec<Listed>, Vec<BrokenRow>), StoreError> {
        let tx = self.connection.unchecked_transaction()?;
        let raw = raw_rows(&tx)?;
        let parse = |raw: &Raw<String>| raw.parse(Run::without_enforced);
        // Parsing the rows takes as long as reading the entries, and needs nothing of them.
        let (parsed, entries) = std::thread::scope(|scope| {
            let parser = (raw.len() >= PARSED_BESIDE).then(|| scope.spawn(|| raw.iter().map(parse).collect::<Vec<_>>()));
            let entries = entries(&tx, &raw);
            let parsed = match parser.map(std::thread::ScopedJoinHandle::join) {
                Some(Ok(parsed)) => parsed,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => raw.iter().map(parse).collect(),
            };
            (parsed, entries)
        });
        let (holds, broken_entries) = entries?;
        let (mut listed, mut broken) = (Vec::with_capacity(parsed.len()), Vec::new());
        for (record, holds) in parsed.into_iter().zip(holds) {
            match record {
                Ok(record) => listed.push(Listed { record, holds }),
                Err(row) => broken.push(row),
            }
        }
        broken.extend(broken_entries);
        Ok((listed, broken))
    }
}

/// What is shown of the entries of each row, in the rows' order, and the entries that are none.
fn entries(connection: &Connection, raw: &[Raw<String>]) -> Result<(Vec<Holds>, Vec<BrokenRow>), StoreError> {
    let (mut holds, mut broken) = (vec![Holds::default(); raw.len()], Vec::new());
    let places: HashMap<&str, usize> = raw.iter().enumerate().map(|(i, raw)| (raw.id.as_str(), i)).collect();
    for word in recorded_kinds(connection)? {
        let mut each = |take: fn(&mut Holds, &str, Option<&str>) -> Result<(), String>| {
            fill(connection, &word, (&places, &mut holds), take, &mut broken)
        };
        match word.parse::<Kind>() {
            Ok(Kind::Process) => each(|holds, _, identity| set(&mut holds.process, identity.map(identity_from_json)))?,
            Ok(Kind::Monitor) => each(|holds, _, identity| set(&mut holds.monitor_pid, identity.map(pid)))?,
            Ok(Kind::Address) => each(|holds, key, _| set(&mut holds.address, Some(Ok(key.to_owned()))))?,
            Ok(Kind::Tap) => each(|holds, key, _| set(&mut holds.tap, Some(Ok(key.to_owned()))))?,
            Ok(Kind::Mac) => each(|holds, key, _| set(&mut holds.mac, Some(Ok(key.to_owned()))))?,
            Ok(Kind::NftElements | Kind::RunDir | Kind::StateDir | Kind::Uid) => {}
            Err(_) => unknown(connection, &word, &mut broken)?,
        }
    }
    Ok((holds, broken))
}

/// Of several entries of a kind the first counts.
fn set<T>(place: &mut Option<T>, value: Option<Result<T, String>>) -> Result<(), String> {
    if let (None, Some(value)) = (&place, value) {
        *place = Some(value?);
    }
    Ok(())
}

fn pid(text: &str) -> Result<u32, String> {
    serde_json::from_str::<PidJson>(text).map(|json| json.pid).map_err(|e| e.to_string())
}

/// Gives every entry of a kind to its row.
fn fill(
    connection: &Connection,
    kind: &str,
    (places, holds): (&HashMap<&str, usize>, &mut [Holds]),
    take: fn(&mut Holds, &str, Option<&str>) -> Result<(), String>,
    broken: &mut Vec<BrokenRow>,
) -> Result<(), StoreError> {
    let mut statement = connection.prepare_cached("SELECT sandbox, key, identity FROM ledger WHERE kind = ?1 ORDER BY key")?;
    let mut rows = statement.query([kind])?;
    while let Some(row) = rows.next()? {
        let (sandbox, key) =
            (row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?, row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?);
        let Some(holds) = places.get(sandbox).and_then(|i| holds.get_mut(*i)) else { continue };
        let identity = row.get_ref(2)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        if let Err(problem) = take(holds, key, identity) {
            let place = BrokenPlace::Entry { kind: kind.to_owned(), key: key.to_owned() };
            broken.push(BrokenRow { raw_id: sandbox.to_owned(), problem, place });
        }
    }
    Ok(())
}

/// Entries of a kind that nobody knows.
fn unknown(connection: &Connection, kind: &str, broken: &mut Vec<BrokenRow>) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT kind, key, sandbox, status, identity FROM ledger WHERE kind = ?1 ORDER BY key")?;
    let mut rows = statement.query([kind])?;
    while let Some(row) = rows.next()? {
        broken.extend(entry(row)?.err());
    }
    Ok(())
}
