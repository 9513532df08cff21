//! Looks at the ledger without locking anybody out.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, Row, Rows};
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::spec::Spec;
use smolvm_model::state::State;

use super::identity::identity_from_json;
use super::record::{BrokenPlace, BrokenRow, Run, SandboxRecord, SharedPart, Table, spec_from_json};
use super::{Store, StoreError};

/// The columns of a row, in the order in which [`Raw::read`] and [`entry`] read them, and where of which rows.
macro_rules! select {
    (sandbox $which:literal) => {
        concat!("SELECT seq, id, state, generation, spec, created_ms, expires_ms, run, failure, exit FROM sandbox ", $which)
    };
    (ledger $which:literal) => {
        concat!("SELECT kind, key, sandbox, status, identity FROM ledger ", $which)
    };
}

/// A sandbox and its entries.
pub type Found = (SandboxRecord, Vec<Entry>);

impl Store {
    /// Everything there is, in one consistent look.
    pub fn table(&self) -> Result<Table, StoreError> {
        // One read transaction: rows and entries of the same moment.
        let tx = self.connection.unchecked_transaction()?;
        let mut sandboxes = Vec::new();
        let mut broken = rows(&tx, Run::whole, |record| sandboxes.push(record))?;
        let mut grouped = Grouped::of(&sandboxes);
        // In the order of the primary key: nothing is sorted, and nothing looked up twice.
        let mut statement = tx.prepare_cached(select!(ledger "ORDER BY kind, key"))?;
        grouped.read(statement.query([])?, &mut broken)?;
        let entries = grouped.entries();
        Ok(Table { sandboxes, entries, broken })
    }

    /// One sandbox and its entries; `None` when there is none of that id.
    pub fn sandbox(&self, id: &SandboxId) -> Result<Option<Found>, StoreError> {
        let tx = self.connection.unchecked_transaction()?;
        one(&tx, id)
    }

    /// Several sandboxes in one consistent look, in the order of `ids`. A row that cannot be read is an error of its own.
    pub fn sandboxes<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a SandboxId>,
    ) -> Result<Vec<Result<Option<Found>, StoreError>>, StoreError> {
        let tx = self.connection.unchecked_transaction()?;
        Ok(ids.into_iter().map(|id| one(&tx, id)).collect())
    }

    /// The generation of every row there is, by the text in its id column.
    pub fn generations(&self) -> Result<HashMap<String, i64>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT id, generation FROM sandbox")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The sandboxes that wait in the pool, the oldest first, each with the kind of machine it is.
    ///
    /// Whoever means to act on one reads its row again, under its lock.
    pub fn pooled(&self) -> Result<Vec<(SandboxId, String)>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT id, run FROM sandbox WHERE state = ?1 ORDER BY seq")?;
        let rows = statement.query_map([State::Pooled.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Option<String>>(1)?)))?;
        let mut waiting = Vec::new();
        for row in rows {
            let (id, run) = row?;
            // A broken row is shown by `list`, and nobody's to take.
            let run = run.and_then(|text| Run::whole(&text).ok());
            waiting.extend(id.parse().ok().zip(run.map(|run| run.pooled)));
        }
        Ok(waiting)
    }

    /// Whether the ledger has a sound entry of this kind that may stand for something on the host.
    pub fn has_in_use(&self, kind: Kind) -> Result<bool, StoreError> {
        let mut statement = self.connection.prepare_cached(select!(ledger "WHERE kind = ?1 AND status IN (?2, ?3)"))?;
        let mut rows = statement.query([kind.as_str(), Status::Intended.as_str(), Status::Held.as_str()])?;
        while let Some(row) = rows.next()? {
            if entry(row)?.is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
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

/// Gives the sound rows of all sandboxes to `take`, in order of creation; gives back the others.
pub(super) fn rows(connection: &Connection, read_run: ReadRun, mut take: impl FnMut(SandboxRecord)) -> Result<Vec<BrokenRow>, StoreError> {
    let mut broken = Vec::new();
    let mut statement = connection.prepare_cached(select!(sandbox "ORDER BY seq"))?;
    let mut rows = statement.query([])?;
    let mut last = LastSpec::default();
    while let Some(row) = rows.next()? {
        match Raw::read(row)?.parse(read_run, &mut last) {
            Ok(record) => take(record),
            Err(row) => broken.push(row),
        }
    }
    Ok(broken)
}

/// The kinds that any entry has, known or not, each found by one step into the index.
pub(super) fn recorded_kinds(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE next(kind) AS (
           SELECT min(kind) FROM ledger
           UNION ALL SELECT (SELECT min(kind) FROM ledger WHERE kind > next.kind) FROM next WHERE next.kind IS NOT NULL
         ) SELECT kind FROM next WHERE kind IS NOT NULL",
    )?;
    let kinds = statement.query_map([], |row| row.get(0))?;
    Ok(kinds.collect::<Result<_, _>>()?)
}

fn one(connection: &Connection, id: &SandboxId) -> Result<Option<Found>, StoreError> {
    let mut statement = connection.prepare_cached(select!(sandbox "WHERE id = ?1"))?;
    let Some(found) =
        statement.query_row([id.as_str()], |row| Ok(Raw::read(row)?.parse(Run::whole, &mut LastSpec::default()))).optional()?
    else {
        return Ok(None);
    };
    let record = found.map_err(broken_row)?;
    let mut statement = connection.prepare_cached(select!(ledger "WHERE sandbox = ?1 ORDER BY kind, key"))?;
    let mut rows = statement.query([id.as_str()])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.push(entry(row)?.map_err(broken_row)?);
    }
    Ok(Some((record, entries)))
}

/// Entries as they are read by kind and key, to be given out by sandbox: those of sound rows in the rows' order.
struct Grouped<'a> {
    places: HashMap<&'a str, usize>,
    known: Vec<Vec<Entry>>,
    others: BTreeMap<SandboxId, Vec<Entry>>,
}

impl<'a> Grouped<'a> {
    fn of(sandboxes: &'a [SandboxRecord]) -> Self {
        let places = sandboxes.iter().enumerate().map(|(i, record)| (record.id.as_str(), i)).collect();
        Self { places, known: vec![Vec::new(); sandboxes.len()], others: BTreeMap::new() }
    }

    fn read(&mut self, mut rows: Rows<'_>, broken: &mut Vec<BrokenRow>) -> Result<(), StoreError> {
        while let Some(row) = rows.next()? {
            match entry(row)? {
                Ok(entry) => self.add(entry),
                Err(row) => broken.push(row),
            }
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry) {
        match self.places.get(entry.sandbox.as_str()).and_then(|place| self.known.get_mut(*place)) {
            Some(group) => group.push(entry),
            None => self.others.entry(entry.sandbox.clone()).or_default().push(entry),
        }
    }

    fn entries(self) -> Vec<Entry> {
        self.known.into_iter().chain(self.others.into_values()).flatten().collect()
    }
}

fn broken_row(row: BrokenRow) -> StoreError {
    StoreError::BrokenRow { raw_id: row.raw_id.chars().take(100).collect(), problem: row.problem }
}

pub(super) type Parsed<T> = Result<T, BrokenRow>;
/// How much of a run's facts is read.
pub(super) type ReadRun = fn(&str) -> Result<Run, String>;

/// The specification that was read last. Sandboxes are often made alike, and the same text is the same value.
#[derive(Default)]
struct LastSpec(Option<(String, Spec)>);

impl LastSpec {
    fn read(&mut self, text: &str) -> Result<Spec, String> {
        if let Some((_, spec)) = self.0.as_ref().filter(|(last, _)| last == text) {
            return Ok(spec.clone());
        }
        let spec = spec_from_json(text)?;
        self.0 = Some((text.to_owned(), spec.clone()));
        Ok(spec)
    }
}

/// A row as it stands there, its texts borrowed from `SQLite`.
struct Raw<'a> {
    seq: i64,
    id: &'a str,
    state: &'a str,
    generation: i64,
    spec: &'a str,
    created_ms: i64,
    expires_ms: Option<i64>,
    run: Option<&'a str>,
    failure: Option<&'a str>,
    exit: Option<&'a str>,
}

impl<'a> Raw<'a> {
    fn read(row: &'a Row<'_>) -> Result<Self, rusqlite::Error> {
        let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        let optional_text = |column: usize| row.get_ref(column)?.as_str_or_null().map_err(rusqlite::Error::from);
        Ok(Self {
            seq: row.get(0)?,
            id: text(1)?,
            state: text(2)?,
            generation: row.get(3)?,
            spec: text(4)?,
            created_ms: row.get(5)?,
            expires_ms: row.get(6)?,
            run: optional_text(7)?,
            failure: optional_text(8)?,
            exit: optional_text(9)?,
        })
    }

    /// The row as a value, if it is what smolvm writes.
    fn parse(&self, read_run: ReadRun, last: &mut LastSpec) -> Parsed<SandboxRecord> {
        let broken = |problem: String| BrokenRow { raw_id: self.id.to_owned(), problem, place: BrokenPlace::Sandbox };
        Ok(SandboxRecord {
            id: self.id.parse().map_err(|e| broken(format!("{e}")))?,
            seq: self.seq,
            state: self.state.parse().map_err(|e| broken(format!("{e}: {:?}", self.state)))?,
            generation: self.generation,
            spec: last.read(self.spec).map_err(broken)?,
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            run: self.run.map(read_run).transpose().map_err(broken)?,
            failure: optional(self.failure).map_err(broken)?,
            exit: optional(self.exit).map_err(broken)?,
        })
    }
}

fn optional<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(serde_json::from_str).transpose().map_err(|e| e.to_string())
}

pub(super) fn entry(row: &Row<'_>) -> Result<Parsed<Entry>, rusqlite::Error> {
    let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let (kind, key, raw_id, status) = (text(0)?, text(1)?, text(2)?, text(3)?);
    let identity = row.get_ref(4)?.as_str_or_null()?;
    let place = || BrokenPlace::Entry { kind: kind.to_owned(), key: key.to_owned() };
    let broken = |problem: String| BrokenRow { raw_id: raw_id.to_owned(), problem, place: place() };
    let parse = || {
        Ok(Entry {
            sandbox: raw_id.parse().map_err(|e| broken(format!("{e}")))?,
            kind: kind.parse().map_err(|e| broken(format!("{e}: {kind:?}")))?,
            key: key.to_owned(),
            status: status.parse().map_err(|e| broken(format!("{e}: {status:?}")))?,
            identity: identity.map(identity_from_json).transpose().map_err(broken)?,
        })
    };
    Ok(parse())
}
