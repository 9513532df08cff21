//! Changes the ledger: one immediate transaction for everything that belongs together.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use smolvm_model::effect::{Commit, Side};
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::spec::Spec;
use smolvm_model::state::State;

use super::identity::identity_to_json;
use super::record::{BrokenPlace, BrokenRow, Exit, Failure, Run, SharedPart, spec_to_json, to_json};
use super::{Store, StoreError};
use crate::effect::{is_forgotten, reach_commit};

/// A sandbox about to be recorded.
#[derive(Debug)]
pub struct NewSandbox<'a> {
    /// Its id.
    pub id: &'a SandboxId,
    /// What was asked for.
    pub spec: &'a Spec,
    /// Now, milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// When its time to live passes.
    pub expires_ms: Option<i64>,
}

/// An open transaction; it is rolled back unless [`Store::write`]'s closure returns `Ok`.
#[derive(Debug)]
pub struct Writing<'a> {
    tx: Transaction<'a>,
}

impl Store {
    /// Runs `change` in one immediate transaction and commits it, with one fsync if it has to survive a power cut. `commit` says what it
    /// announces or records.
    pub fn write<T, E: From<StoreError>>(&mut self, commit: Commit, change: impl FnOnce(&Writing<'_>) -> Result<T, E>) -> Result<T, E> {
        if let Some(why) = self.unwritable {
            return Err(StoreError::from(why).into());
        }
        reach_commit(commit, Side::Before).map_err(StoreError::from)?;
        self.sync_for(commit.survives()).map_err(StoreError::from)?;
        let value = {
            let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
            let writing = Writing { tx };
            let value = change(&writing)?;
            if is_forgotten(commit) {
                return Ok(value);
            }
            Self::sync_new_log(&self.path)?;
            writing.tx.commit().map_err(StoreError::from)?;
            value
        };
        self.shorten_log()?;
        reach_commit(commit, Side::After).map_err(StoreError::from)?;
        Ok(value)
    }
}

impl Writing<'_> {
    #[cfg(test)]
    pub(super) fn synchronous(&self) -> Result<i64, StoreError> {
        Ok(self.tx.pragma_query_value(None, "synchronous", |row| row.get(0))?)
    }

    /// Inserts a sandbox in state `creating`, generation 0; gives its `seq`, which no later one of the same name will have.
    pub fn insert_sandbox(&self, new: &NewSandbox<'_>) -> Result<i64, StoreError> {
        let done = self
            .tx
            .prepare_cached("INSERT INTO sandbox (id, state, spec, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![new.id.as_str(), State::Creating.as_str(), spec_to_json(new.spec), new.created_ms, new.expires_ms]);
        match done {
            Ok(_) => Ok(self.tx.last_insert_rowid()),
            Err(e) if is_constraint(&e) => Err(StoreError::NameTaken),
            Err(e) => Err(e.into()),
        }
    }

    /// Inserts an entry; its key is then taken for everybody.
    pub fn insert_entry(&self, entry: &Entry) -> Result<(), StoreError> {
        let identity = entry.identity.as_ref().map(identity_to_json);
        let done = self
            .tx
            .prepare_cached("INSERT INTO ledger (kind, key, sandbox, status, identity) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![entry.kind.as_str(), entry.key, entry.sandbox.as_str(), entry.status.as_str(), identity]);
        match done {
            Ok(_) => Ok(()),
            Err(e) if is_constraint(&e) => Err(StoreError::KeyTaken { kind: entry.kind, key: entry.key.clone() }),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a key is taken.
    pub fn is_taken(&self, kind: Kind, key: &str) -> Result<bool, StoreError> {
        Ok(self.tx.prepare_cached("SELECT 1 FROM ledger WHERE kind = ?1 AND key = ?2")?.exists(params![kind.as_str(), key])?)
    }

    /// Every key of one kind that is taken, as this transaction sees it.
    pub fn taken(&self, kind: Kind) -> Result<Vec<String>, StoreError> {
        let mut statement = self.tx.prepare_cached("SELECT key FROM ledger WHERE kind = ?1")?;
        let rows = statement.query_map([kind.as_str()], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Moves an entry to another status.
    pub fn set_status(&self, kind: Kind, key: &str, status: Status) -> Result<(), StoreError> {
        self.tx.prepare_cached("UPDATE ledger SET status = ?3 WHERE kind = ?1 AND key = ?2")?.execute(params![
            kind.as_str(),
            key,
            status.as_str()
        ])?;
        Ok(())
    }

    /// Moves a sandbox's entries of one kind to another status.
    pub fn set_status_of_kind(&self, id: &SandboxId, kind: Kind, status: Status) -> Result<(), StoreError> {
        let mut statement = self.tx.prepare_cached("UPDATE ledger SET status = ?3 WHERE sandbox = ?1 AND kind = ?2")?;
        statement.execute(params![id.as_str(), kind.as_str(), status.as_str()])?;
        Ok(())
    }

    /// Records who a process is; its entry becomes held.
    pub fn set_identity(&self, kind: Kind, key: &str, identity: &ProcessIdentity) -> Result<(), StoreError> {
        let changed = self
            .tx
            .prepare_cached("UPDATE ledger SET status = ?3, identity = ?4 WHERE kind = ?1 AND key = ?2")?
            .execute(params![kind.as_str(), key, Status::Held.as_str(), identity_to_json(identity)])?;
        if changed == 0 { Err(StoreError::Changed) } else { Ok(()) }
    }

    /// Removes an entry whose resource is proven gone.
    pub fn drop_entry(&self, kind: Kind, key: &str) -> Result<(), StoreError> {
        self.tx.prepare_cached("DELETE FROM ledger WHERE kind = ?1 AND key = ?2")?.execute(params![kind.as_str(), key])?;
        Ok(())
    }

    /// Moves a sandbox to another state if its generation is still `expected`; returns the new generation.
    pub fn set_state(&self, id: &SandboxId, expected: i64, state: State) -> Result<i64, StoreError> {
        let changed = self
            .tx
            .prepare_cached("UPDATE sandbox SET state = ?3, generation = generation + 1 WHERE id = ?1 AND generation = ?2")?
            .execute(params![id.as_str(), expected, state.as_str()])?;
        if changed == 0 { Err(StoreError::Changed) } else { Ok(expected + 1) }
    }

    /// Moves a sandbox to another state whatever its generation, for whoever holds its lock and overrules its monitor.
    pub fn force_state(&self, id: &SandboxId, state: State) -> Result<(), StoreError> {
        self.tx
            .prepare_cached("UPDATE sandbox SET state = ?2, generation = generation + 1 WHERE id = ?1")?
            .execute(params![id.as_str(), state.as_str()])?;
        Ok(())
    }

    /// Records facts of the present run; a new run forgets how the last one ended.
    pub fn set_run(&self, id: &SandboxId, run: &Run) -> Result<(), StoreError> {
        self.set_text(id, "UPDATE sandbox SET run = ?2, failure = NULL, exit = NULL WHERE id = ?1", Some(&to_json(run)))
    }

    /// Adds facts to the present run.
    pub fn update_run(&self, id: &SandboxId, run: &Run) -> Result<(), StoreError> {
        self.set_text(id, "UPDATE sandbox SET run = ?2 WHERE id = ?1", Some(&to_json(run)))
    }

    /// Gives a sandbox that was made for nobody to somebody: what they asked for, and when its time to live begins.
    pub fn assign(&self, new: &NewSandbox<'_>) -> Result<(), StoreError> {
        let changed = self
            .tx
            .prepare_cached("UPDATE sandbox SET spec = ?2, created_ms = ?3, expires_ms = ?4 WHERE id = ?1")?
            .execute(params![new.id.as_str(), spec_to_json(new.spec), new.created_ms, new.expires_ms])?;
        if changed == 0 { Err(StoreError::Changed) } else { Ok(()) }
    }

    /// Sets when its time to live passes.
    pub fn set_expiry(&self, id: &SandboxId, expires_ms: Option<i64>) -> Result<(), StoreError> {
        let changed =
            self.tx.prepare_cached("UPDATE sandbox SET expires_ms = ?2 WHERE id = ?1")?.execute(params![id.as_str(), expires_ms])?;
        if changed == 0 { Err(StoreError::Changed) } else { Ok(()) }
    }

    /// Records why an operation failed.
    pub fn set_failure(&self, id: &SandboxId, failure: Option<&Failure>) -> Result<(), StoreError> {
        self.set_text(id, "UPDATE sandbox SET failure = ?2 WHERE id = ?1", failure.map(to_json).as_deref())
    }

    /// Records how a run ended.
    pub fn set_exit(&self, id: &SandboxId, exit: Option<&Exit>) -> Result<(), StoreError> {
        self.set_text(id, "UPDATE sandbox SET exit = ?2 WHERE id = ?1", exit.map(to_json).as_deref())
    }

    /// Removes a sandbox's row; refused while the ledger has entries of it.
    pub fn delete_sandbox(&self, id: &SandboxId) -> Result<(), StoreError> {
        match self.tx.prepare_cached("DELETE FROM sandbox WHERE id = ?1")?.execute([id.as_str()]) {
            Ok(_) => Ok(()),
            Err(e) if is_constraint(&e) => Err(StoreError::StillHeld),
            Err(e) => Err(e.into()),
        }
    }

    /// Drops a broken row and touches nothing on the host. With a sandbox's row its entries go too: what
    /// they named carries the mark, and is found as an orphan. A broken entry goes alone.
    pub fn drop_broken(&self, row: &BrokenRow) -> Result<(), StoreError> {
        match &row.place {
            BrokenPlace::Entry { kind, key } => {
                self.tx.execute("DELETE FROM ledger WHERE kind = ?1 AND key = ?2", [kind, key])?;
            }
            BrokenPlace::Sandbox => {
                self.tx.execute("DELETE FROM ledger WHERE sandbox = ?1", [&row.raw_id])?;
                self.tx.execute("DELETE FROM sandbox WHERE id = ?1", [&row.raw_id])?;
            }
        }
        Ok(())
    }

    /// Notes a shared part before it is changed; one that is noted keeps its first `before`.
    pub fn note_shared(&self, part: &SharedPart) -> Result<(), StoreError> {
        self.tx
            .prepare_cached("INSERT INTO shared (kind, key, before, after) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
            .execute(params![part.kind, part.key, part.before, part.after])?;
        Ok(())
    }

    /// Notes how a shared part that is noted was left.
    pub fn note_shared_after(&self, part: &SharedPart) -> Result<(), StoreError> {
        self.tx
            .prepare_cached("UPDATE shared SET after = ?3 WHERE kind = ?1 AND key = ?2")?
            .execute(params![part.kind, part.key, part.after])?;
        Ok(())
    }

    /// Forgets a shared part that was put back.
    pub fn forget_shared(&self, part: &SharedPart) -> Result<(), StoreError> {
        self.tx.prepare_cached("DELETE FROM shared WHERE kind = ?1 AND key = ?2")?.execute(params![part.kind, part.key])?;
        Ok(())
    }

    /// Sets a setting of the installation.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), StoreError> {
        self.tx.execute("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", [key, value])?;
        Ok(())
    }

    /// One setting of the installation, as this transaction sees it.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.tx.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()?)
    }

    fn set_text(&self, id: &SandboxId, sql: &str, json: Option<&str>) -> Result<(), StoreError> {
        let changed = self.tx.prepare_cached(sql)?.execute(params![id.as_str(), json])?;
        if changed == 0 { Err(StoreError::Changed) } else { Ok(()) }
    }
}

fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smolvm_model::engine::AcceleratorRequest;
    use smolvm_model::quantity::{Cpus, DiskSize, Memory};
    use smolvm_model::spec::NetworkMode;

    fn spec() -> Spec {
        Spec {
            workdir: None,
            user: None,
            init: None,
            restored_from: None,
            image: "minimal".parse().unwrap(),
            image_digest: "d".to_owned(),
            cpus: Cpus::default(),
            memory: Memory::from_mib(128).unwrap(),
            disk: DiskSize::default(),
            network: NetworkMode::Tap,
            env: [("A".parse().unwrap(), "b".to_owned())].into(),
            labels: [("team/x".parse().unwrap(), "1".to_owned())].into(),
            accelerator: AcceleratorRequest::Auto,
        }
    }

    const TOKEN: &str = "11111111-1111-4111-8111-111111111111";

    fn with_one() -> (tempfile::TempDir, Store, SandboxId) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        let id: SandboxId = "vm-a".parse().unwrap();
        let entry =
            Entry { sandbox: id.clone(), kind: Kind::Address, key: "10.0.0.2".to_owned(), status: Status::Reserved, identity: None };
        store
            .write(Commit::Settled, |w| {
                w.insert_sandbox(&NewSandbox { id: &id, spec: &spec(), created_ms: 5, expires_ms: Some(9) })?;
                w.insert_entry(&entry)
            })
            .unwrap();
        (dir, store, id)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, mut store, id) = with_one();
        let identity = ProcessIdentity { pid: 1, start_ticks: 2, boot_id: "b".to_owned(), token: TOKEN.to_owned() };
        let process = Entry { sandbox: id.clone(), kind: Kind::Process, key: TOKEN.to_owned(), status: Status::Intended, identity: None };
        store
            .write(Commit::Settled, |w| {
                w.insert_entry(&process)?;
                w.set_identity(Kind::Process, TOKEN, &identity)?;
                w.set_state(&id, 0, State::Created)
            })
            .unwrap();
        let (record, entries) = store.sandbox(&id).unwrap().unwrap();
        assert_eq!((record.state, record.generation, record.created_ms, record.expires_ms), (State::Created, 1, 5, Some(9)));
        assert_eq!(record.spec, spec());
        assert_eq!(entries.iter().find(|e| e.kind == Kind::Process).unwrap().identity, Some(identity));
        let table = store.table().unwrap();
        assert_eq!((table.sandboxes.len(), table.entries.len(), table.broken.len()), (1, 2, 0));
    }

    #[test]
    fn a_row_cannot_vanish_while_anything_is_recorded_under_it() {
        let (_dir, mut store, id) = with_one();
        assert!(matches!(store.write(Commit::Settled, |w| w.delete_sandbox(&id)), Err(StoreError::StillHeld)));
        store
            .write(Commit::Settled, |w| {
                w.drop_entry(Kind::Address, "10.0.0.2")?;
                w.delete_sandbox(&id)
            })
            .unwrap();
        assert!(store.sandbox(&id).unwrap().is_none());
    }

    #[test]
    fn names_and_keys_are_taken_once_and_a_failed_write_leaves_nothing() {
        let (_dir, mut store, id) = with_one();
        let twice =
            store.write(Commit::Settled, |w| w.insert_sandbox(&NewSandbox { id: &id, spec: &spec(), created_ms: 0, expires_ms: None }));
        assert!(matches!(twice, Err(StoreError::NameTaken)));
        let other: SandboxId = "vm-b".parse().unwrap();
        let clash = store.write(Commit::Settled, |w| {
            w.insert_sandbox(&NewSandbox { id: &other, spec: &spec(), created_ms: 0, expires_ms: None })?;
            w.insert_entry(&Entry {
                sandbox: other.clone(),
                kind: Kind::Address,
                key: "10.0.0.2".to_owned(),
                status: Status::Reserved,
                identity: None,
            })
        });
        assert!(matches!(clash, Err(StoreError::KeyTaken { kind: Kind::Address, .. })));
        assert!(store.sandbox(&other).unwrap().is_none());
    }

    /// Sandboxes `vm-a` to `vm-c`, made in the order c, a, b, each with the entries of a running one.
    fn with_three() -> (tempfile::TempDir, Store, Vec<SandboxId>) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        let ids: Vec<SandboxId> = ["vm-c", "vm-a", "vm-b"].iter().map(|id| id.parse().unwrap()).collect();
        for (i, id) in (1_u32..).zip(&ids) {
            let token = format!("{i}1111111-1111-4111-8111-111111111111");
            let identity = |pid| Some(ProcessIdentity { pid, start_ticks: 2, boot_id: "b".to_owned(), token: token.clone() });
            let entry = |kind, key: String, identity| Entry { sandbox: id.clone(), kind, key, status: Status::Held, identity };
            store
                .write(Commit::Settled, |w| {
                    w.insert_sandbox(&NewSandbox { id, spec: &spec(), created_ms: 0, expires_ms: None })?;
                    w.set_state(id, 0, State::Running)?;
                    w.insert_entry(&entry(Kind::Process, token.clone(), identity(i)))?;
                    w.insert_entry(&entry(Kind::Monitor, token.clone(), identity(100 + i)))?;
                    for kind in [Kind::NftElements, Kind::Tap, Kind::RunDir, Kind::StateDir, Kind::Address, Kind::Mac, Kind::Uid] {
                        w.insert_entry(&entry(kind, format!("{id}-{kind}"), None))?;
                    }
                    Ok::<_, StoreError>(())
                })
                .unwrap();
        }
        (dir, store, ids)
    }

    #[test]
    fn many_rows_at_once_are_the_rows_one_by_one() {
        let (_dir, store, ids) = with_three();
        let none: SandboxId = "vm-none".parse().unwrap();
        let asked = [&ids[2], &none, &ids[0]];
        let together: Vec<_> = store.sandboxes(asked).unwrap().into_iter().map(Result::unwrap).collect();
        let alone: Vec<_> = asked.iter().map(|id| store.sandbox(id).unwrap()).collect();
        assert_eq!(together, alone);
        assert!(together[0].is_some() && together[1].is_none());
        // The table has them in the order of their creation, each one's entries together.
        let table = store.table().unwrap();
        assert_eq!(table.sandboxes.iter().map(|r| &r.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
        let entries: Vec<Entry> = ids.iter().flat_map(|id| store.sandbox(id).unwrap().unwrap().1).collect();
        assert_eq!(table.entries, entries);
        let generations = store.generations().unwrap();
        assert_eq!((generations.len(), generations["vm-b"]), (3, 1));
    }

    #[test]
    fn one_row_that_cannot_be_read_hides_no_other() {
        let (_dir, store, ids) = with_three();
        store.connection.execute("UPDATE ledger SET status = 'odd' WHERE key = 'vm-a-tap'", []).unwrap();
        let found = store.sandboxes(&ids).unwrap();
        assert!(matches!(found[1], Err(StoreError::BrokenRow { .. })));
        assert!(matches!((&found[0], &found[2]), (Ok(Some(_)), Ok(Some(_)))));
    }

    #[test]
    fn a_listing_shows_what_the_entries_say() {
        let (_dir, store, ids) = with_three();
        store.connection.execute("INSERT INTO ledger (kind, key, sandbox, status) VALUES ('teapot', 'k', 'vm-a', 'held')", []).unwrap();
        store.connection.execute("UPDATE ledger SET identity = '{}' WHERE kind = 'monitor' AND sandbox = 'vm-b'", []).unwrap();
        store.connection.execute("INSERT INTO sandbox (id, state, spec, created_ms) VALUES ('../..', 'running', '{}', 0)", []).unwrap();
        let (listed, broken) = store.listing().unwrap();
        assert_eq!(listed.iter().map(|l| &l.record).collect::<Vec<_>>(), store.table().unwrap().sandboxes.iter().collect::<Vec<_>>());
        let holds = &listed[0].holds;
        assert_eq!(holds.process.as_ref().map(|i| (i.pid, i.token.as_str())), Some((1, "11111111-1111-4111-8111-111111111111")));
        let text = |kind| Some(format!("{}-{kind}", ids[0]));
        assert_eq!(
            (holds.monitor_pid, &holds.address, &holds.tap, &holds.mac),
            (Some(101), &text(Kind::Address), &text(Kind::Tap), &text(Kind::Mac))
        );
        assert_eq!(listed[2].holds.monitor_pid, None);
        let mut told: Vec<&str> = broken.iter().map(|row| row.raw_id.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told, ["../..", "vm-a", "vm-b"], "{broken:?}");
    }

    #[test]
    fn only_a_sound_entry_that_is_more_than_a_name_is_in_use() {
        let (_dir, mut store, ids) = with_three();
        assert!(store.has_in_use(Kind::Tap).unwrap());
        for (id, status) in ids.iter().zip(["reserved", "odd", "reserved"]) {
            store.connection.execute("UPDATE ledger SET status = ?2 WHERE kind = 'tap' AND sandbox = ?1", [id.as_str(), status]).unwrap();
        }
        assert!(!store.has_in_use(Kind::Tap).unwrap());
        store.write(Commit::Settled, |w| w.set_status_of_kind(&ids[2], Kind::Tap, Status::Intended)).unwrap();
        assert!(store.has_in_use(Kind::Tap).unwrap() && store.has_in_use(Kind::NftElements).unwrap());
    }

    #[test]
    fn a_stale_generation_changes_nothing() {
        let (_dir, mut store, id) = with_one();
        store.write(Commit::Settled, |w| w.set_state(&id, 0, State::Created)).unwrap();
        assert!(matches!(store.write(Commit::Settled, |w| w.set_state(&id, 0, State::Deleting)), Err(StoreError::Changed)));
        assert_eq!(store.sandbox(&id).unwrap().unwrap().0.state, State::Created);
    }

    #[test]
    fn a_broken_entry_is_dropped_without_its_sandbox() {
        let (_dir, mut store, id) = with_one();
        store.connection.execute("INSERT INTO ledger (kind, key, sandbox, status) VALUES ('teapot', 'k', 'vm-a', 'held')", []).unwrap();
        assert!(matches!(store.sandbox(&id), Err(StoreError::BrokenRow { .. })), "an entry that cannot be read was passed over");
        let broken = store.table().unwrap().broken;
        assert_eq!(broken.len(), 1);
        store.write(Commit::Settled, |w| w.drop_broken(&broken[0])).unwrap();
        assert_eq!(store.sandbox(&id).unwrap().unwrap().1.len(), 1);
    }

    #[test]
    fn a_token_that_is_none_breaks_its_entry() {
        let (_dir, mut store, _) = with_one();
        for (key, token) in [("a", ""), ("b", "-uuid"), ("c", "AAAAAAAA-1111-4111-8111-111111111111"), ("d", "../..")] {
            let identity = format!(r#"{{"pid":1,"start_ticks":1,"boot_id":"b","token":"{token}"}}"#);
            store
                .connection
                .execute(
                    "INSERT INTO ledger (kind, key, sandbox, status, identity) VALUES ('process', ?1, 'vm-a', 'held', ?2)",
                    [key, &identity],
                )
                .unwrap();
        }
        let table = store.table().unwrap();
        assert_eq!((table.entries.len(), table.broken.len()), (1, 4), "{:?}", table.broken);
        for broken in table.broken {
            store.write(Commit::Settled, |w| w.drop_broken(&broken)).unwrap();
        }
        assert_eq!(store.table().unwrap().broken, []);
    }

    #[test]
    fn hostile_rows_are_shown_and_never_parsed_into_values() {
        let (_dir, mut store, _) = with_one();
        for raw in ["../..", "/etc", "a\nb", &"x".repeat(300)] {
            store.connection.execute("INSERT INTO sandbox (id, state, spec, created_ms) VALUES (?1, 'running', '{}', 0)", [raw]).unwrap();
        }
        let table = store.table().unwrap();
        assert_eq!((table.sandboxes.len(), table.broken.len()), (1, 4));
        for broken in table.broken {
            store.write(Commit::Settled, |w| w.drop_broken(&broken)).unwrap();
        }
        assert_eq!(store.count().unwrap(), 1);
    }
}
