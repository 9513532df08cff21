//! What `list` reads: every row, and of its entries only what is shown.
//!
//! ```text
//!   rows by seq ──────────┐
//!   ledger, kind by kind ─┴─► Listed        status, uids, directories and what was enforced are not read
//! ```
//!
//! With 10,000 rows the ledger has 90,000 entries: what is not shown is neither read nor parsed, and rows and entries
//! are read at the same time, each by a connection of its own. `cleanup` and `doctor` read everything.

use std::collections::HashMap;

use rusqlite::Connection;
use smolvm_model::ledger::{Kind, ProcessIdentity};
use smolvm_model::name::SandboxId;

use super::identity::{identity_from_json, pid_from_json};
use super::read::{entry, recorded_kinds, rows};
use super::record::{BrokenPlace, BrokenRow, Run, SandboxRecord};
use super::twin::Look;
use super::{Store, StoreError};

/// One row with what is shown of its entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// The row; of its run, only what is shown.
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

impl Store {
    /// All rows in order of creation, in one consistent look; beside them those that are none.
    pub fn listing(&self) -> Result<(Vec<Listed>, Vec<BrokenRow>), StoreError> {
        let Look { first, twin } = self.begin_look()?;
        let mut listed = Vec::new();
        let take = |record| listed.push(Listed { record, holds: Holds::default() });
        let (broken, shown) = match twin {
            None => (rows(&first, Run::shown, take), Shown::read(&first)),
            Some(twin) => std::thread::scope(|scope| {
                let shown = scope.spawn(move || Shown::read(&twin));
                let broken = rows(&first, Run::shown, take);
                (broken, shown.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            }),
        };
        let (mut broken, mut shown) = (broken?, shown?);
        for row in &mut listed {
            row.holds = shown.taken(&row.record.id);
        }
        broken.extend(shown.broken);
        Ok((listed, broken))
    }
}

/// What is shown of the entries, by the sandbox they name.
#[derive(Default)]
struct Shown {
    places: HashMap<String, usize>,
    holds: Vec<Holds>,
    broken: Vec<BrokenRow>,
}

impl Shown {
    fn read(connection: &Connection) -> Result<Self, StoreError> {
        let mut shown = Self::default();
        for word in recorded_kinds(connection)? {
            let mut each = |take| shown.fill(connection, &word, take);
            match word.parse::<Kind>() {
                Ok(Kind::Process) => each(Take::Identity(|holds, text| first(&mut holds.process, text, identity_from_json)))?,
                Ok(Kind::Monitor) => each(Take::Identity(|holds, text| first(&mut holds.monitor_pid, text, pid_from_json)))?,
                Ok(Kind::Address) => each(Take::Key(|holds| &mut holds.address))?,
                Ok(Kind::Tap) => each(Take::Key(|holds| &mut holds.tap))?,
                Ok(Kind::Mac) => each(Take::Key(|holds| &mut holds.mac))?,
                Ok(Kind::NftElements | Kind::RunDir | Kind::StateDir | Kind::Uid) => {}
                Err(_) => unknown(connection, &word, &mut shown.broken)?,
            }
        }
        Ok(shown)
    }

    /// Gives every entry of a kind to its sandbox.
    fn fill(&mut self, connection: &Connection, kind: &str, take: Take) -> Result<(), StoreError> {
        let mut statement = connection.prepare_cached("SELECT sandbox, key, identity FROM ledger WHERE kind = ?1 ORDER BY key")?;
        let mut rows = statement.query([kind])?;
        while let Some(row) = rows.next()? {
            let text = |column: usize| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
            let sandbox = text(0)?;
            match take {
                Take::Key(place) => {
                    place(self.of(sandbox)).get_or_insert(text(1)?.to_owned());
                }
                Take::Identity(take) => {
                    let Some(identity) = row.get_ref(2)?.as_str_or_null().map_err(rusqlite::Error::from)? else { continue };
                    if let Err(problem) = take(self.of(sandbox), identity) {
                        let place = BrokenPlace::Entry { kind: kind.to_owned(), key: text(1)?.to_owned() };
                        self.broken.push(BrokenRow { raw_id: sandbox.to_owned(), problem, place });
                    }
                }
            }
        }
        Ok(())
    }

    /// All that is known of a sandbox, to be had once.
    fn taken(&mut self, id: &SandboxId) -> Holds {
        self.places.get(id.as_str()).map(|place| std::mem::take(&mut self.holds[*place])).unwrap_or_default()
    }

    /// What is known of a sandbox so far.
    fn of(&mut self, sandbox: &str) -> &mut Holds {
        let place = self.places.get(sandbox).copied().unwrap_or_else(|| {
            self.places.insert(sandbox.to_owned(), self.holds.len());
            self.holds.push(Holds::default());
            self.holds.len() - 1
        });
        &mut self.holds[place]
    }
}

/// What is shown of an entry. Of several of a kind the first counts.
#[derive(Clone, Copy)]
enum Take {
    /// Its key, and this is the place for it.
    Key(fn(&mut Holds) -> &mut Option<String>),
    /// Who the process is.
    Identity(fn(&mut Holds, &str) -> Result<(), String>),
}

fn first<T>(place: &mut Option<T>, text: &str, read: fn(&str) -> Result<T, String>) -> Result<(), String> {
    if place.is_none() {
        *place = Some(read(text)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough for a second connection; every third row is none, and so is every fifth monitor.
    const MANY: &str = r#"
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
        INSERT INTO sandbox(id, state, spec, created_ms) SELECT 'vm-' || i, iif(i % 3, 'running', 'gone'),
          '{"image":"minimal","image_digest":"d' || (i % 2) || '","cpus":1,"memory_mib":128,"disk_bytes":8589934592,"network":"tap","accelerator":"auto"}',
          i FROM n;
        INSERT INTO ledger(kind, key, sandbox, status, identity) SELECT 'monitor', 'm' || seq, id, 'held',
          iif(seq % 5, '{"pid":' || seq || ',"start_ticks":1,"boot_id":"b","token":"t"}', '{}') FROM sandbox;
        INSERT INTO ledger(kind, key, sandbox, status) SELECT 'address', 'a' || seq, id, 'reserved' FROM sandbox;"#;

    #[test]
    fn two_connections_read_what_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).unwrap();
        store.connection.execute_batch(MANY).unwrap();
        let looking = Store::look(store.path()).unwrap().unwrap();
        assert!(store.begin_look().unwrap().twin.is_none() && looking.begin_look().unwrap().twin.is_some());
        let (listed, broken) = looking.listing().unwrap();
        assert_eq!((listed.clone(), broken.clone()), store.listing().unwrap());
        assert_eq!((listed.len(), broken.len()), (600, 300 + 180));
        for Listed { record, holds } in &listed {
            assert_eq!(holds.address, Some(format!("a{}", record.seq)));
            assert_eq!(holds.monitor_pid.map(i64::from), Some(record.seq).filter(|seq| seq % 5 != 0));
            assert_eq!(record.spec.image_digest, format!("d{}", record.seq % 2));
        }
    }
}
