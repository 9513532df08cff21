//! The real lock and the real store under threads: who holds what, held against a model.
//!
//! ```text
//!   lock    threads take, drop and remove one lock file ──► never two inside, nobody waits for ever
//!   store   threads, a connection each ──► transactions, logged from inside ──► replayed on the Model:
//!           the same answers, the same table; and every look of a reader is one of the Model's states
//! ```
//!
//! That the protocol built on the two is sound is walked through in `crates/smolvm/tests/lock_protocol.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use smolvm_host::lock;
use smolvm_host::store::{NewSandbox, Store, StoreError};
use smolvm_model::effect::Commit;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::{Cpus, DiskSize, Memory};
use smolvm_model::spec::{NetworkMode, Spec};
use smolvm_model::state::State;
use testkit::Dice;

/// Nothing here takes long; who waits longer waits for ever.
const EVER: Duration = Duration::from_mins(1);

#[test]
fn a_lock_file_that_comes_and_goes_has_one_holder() {
    const THREADS: u64 = 4;
    const ROUNDS: usize = 2000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let (inside, removed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (path, inside, removed) = (&path, &inside, &removed);
            scope.spawn(move || {
                let mut dice = Dice::of(1, worker);
                for round in 0..ROUNDS {
                    let held = lock::take(path, EVER).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "worker {worker} round {round}: two hold the lock");
                    assert!(lock::is_held(path).unwrap(), "worker {worker} round {round}: the name leads to another file");
                    if dice.below(4) == 0 {
                        thread::yield_now();
                    }
                    // What it guards is over before the name goes: from then on another may be inside.
                    inside.fetch_sub(1, Ordering::SeqCst);
                    if dice.below(2) == 0 {
                        held.remove().unwrap();
                        removed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(removed.into_inner() > ROUNDS, "the file hardly ever went");
    assert!(!lock::is_held(&path).unwrap());
}

/// Fewer addresses than names, so that they run out.
const ADDRESSES: [&str; 2] = ["10.0.0.2", "10.0.0.3"];
const NAMES: [&str; 3] = ["a", "b", "c"];
/// A key that more than one wants, taken without a look.
const WANTED: &str = "00:00:00:00:00:01";

/// What a thread is to do; what it read before decides the rest.
#[derive(Debug, Clone)]
enum Op {
    Create {
        name: &'static str,
        greedy: bool,
    },
    SetState {
        name: &'static str,
        state: State,
    },
    Force {
        name: &'static str,
        state: State,
    },
    /// With its entries, as far as they were read, or hoping that there are none.
    Delete {
        name: &'static str,
        entries: bool,
    },
}

/// What it did do, with everything that it depended on.
#[derive(Debug, Clone)]
enum Done {
    Create { name: &'static str, greedy: bool },
    SetState { name: &'static str, expected: i64, state: State },
    Force { name: &'static str, state: State },
    Delete { name: &'static str, drops: Vec<(Kind, String)> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Fine,
    Address(String),
    Generation(i64),
    NameTaken,
    KeyTaken,
    NoAddress,
    Changed,
    StillHeld,
}

/// The ledger as it is meant to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    rows: BTreeMap<String, (String, i64)>,
    entries: BTreeMap<(Kind, String), String>,
}

impl Model {
    /// One transaction: all of it, or nothing.
    fn apply(&mut self, done: &Done) -> Answer {
        match done {
            Done::Create { name, .. } if self.rows.contains_key(*name) => Answer::NameTaken,
            Done::Create { name, greedy } => {
                let free = ADDRESSES.iter().find(|address| !self.entries.contains_key(&(Kind::Address, (**address).to_owned())));
                let Some(address) = free else { return Answer::NoAddress };
                let wanted = (Kind::Mac, WANTED.to_owned());
                if *greedy && self.entries.contains_key(&wanted) {
                    return Answer::KeyTaken;
                }
                let keys = [(Kind::Address, (*address).to_owned())].into_iter().chain(greedy.then_some(wanted));
                self.entries.extend(keys.map(|key| (key, (*name).to_owned())));
                self.rows.insert((*name).to_owned(), (State::Creating.to_string(), 0));
                Answer::Address((*address).to_owned())
            }
            Done::SetState { name, expected, state } => match self.rows.get_mut(*name) {
                Some((now, generation)) if generation == expected => {
                    (*now, *generation) = (state.to_string(), *generation + 1);
                    Answer::Generation(*generation)
                }
                _ => Answer::Changed,
            },
            Done::Force { name, state } => {
                if let Some((now, generation)) = self.rows.get_mut(*name) {
                    (*now, *generation) = (state.to_string(), *generation + 1);
                }
                Answer::Fine
            }
            Done::Delete { name, drops } => {
                let mut left = self.entries.clone();
                left.retain(|key, _| !drops.contains(key));
                if left.values().any(|owner| owner == name) && self.rows.contains_key(*name) {
                    return Answer::StillHeld;
                }
                self.entries = left;
                self.rows.remove(*name);
                Answer::Fine
            }
        }
    }

    fn read(store: &Store) -> Self {
        let table = store.table().unwrap();
        assert_eq!(table.broken, []);
        Self {
            rows: table.sandboxes.iter().map(|row| (row.id.to_string(), (row.state.to_string(), row.generation))).collect(),
            entries: table.entries.into_iter().map(|entry| ((entry.kind, entry.key), entry.sandbox.to_string())).collect(),
        }
    }
}

/// Why a transaction is rolled back.
#[derive(Debug)]
enum Stop {
    Said(Answer),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken => Self::Said(Answer::NameTaken),
            StoreError::KeyTaken { .. } => Self::Said(Answer::KeyTaken),
            StoreError::Changed => Self::Said(Answer::Changed),
            StoreError::StillHeld => Self::Said(Answer::StillHeld),
            other => Self::Store(other),
        }
    }
}

/// What every thread shares.
#[derive(Debug, Default)]
struct Shared {
    /// In the order of the transactions: written from inside, where nobody else is.
    log: Mutex<Vec<(Done, Answer)>>,
    inside: AtomicBool,
}

/// Reads what the operation goes by, then does it in one transaction.
fn perform(store: &mut Store, op: &Op, shared: &Shared) {
    let read = |store: &Store, name: &str| store.sandbox(&id(name)).unwrap();
    let done = match op.clone() {
        Op::Create { name, greedy } => Done::Create { name, greedy },
        Op::SetState { name, state } => Done::SetState { name, expected: read(store, name).map_or(0, |found| found.0.generation), state },
        Op::Force { name, state } => Done::Force { name, state },
        Op::Delete { name, entries } => {
            let found = read(store, name).filter(|_| entries).map(|found| found.1).unwrap_or_default();
            Done::Delete { name, drops: found.into_iter().map(|entry| (entry.kind, entry.key)).collect() }
        }
    };
    let result = store.write(Commit::Settled, |w| {
        assert!(!shared.inside.swap(true, Ordering::SeqCst), "two transactions at once");
        let answer = transaction(w, &done);
        let said = match &answer {
            Ok(answer) | Err(Stop::Said(answer)) => answer.clone(),
            Err(Stop::Store(error)) => panic!("{done:?}: {error:?}"),
        };
        shared.log.lock().unwrap().push((done.clone(), said));
        assert!(shared.inside.swap(false, Ordering::SeqCst));
        answer
    });
    assert!(!matches!(result, Err(Stop::Store(_))), "{done:?}: {result:?}");
}

fn transaction(w: &smolvm_host::store::Writing<'_>, done: &Done) -> Result<Answer, Stop> {
    let entry = |name, kind, key: &str| Entry { sandbox: id(name), kind, key: key.to_owned(), status: Status::Reserved, identity: None };
    match done {
        Done::Create { name, greedy } => {
            w.insert_sandbox(&NewSandbox { id: &id(name), spec: &spec(), created_ms: 0, expires_ms: None })?;
            // As `network::reserve` does it: look at what is taken, take the first that is not.
            let taken: BTreeSet<String> = w.taken(Kind::Address)?.into_iter().collect();
            let free = ADDRESSES.iter().find(|address| !taken.contains(**address)).ok_or(Stop::Said(Answer::NoAddress))?;
            w.insert_entry(&entry(name, Kind::Address, free))?;
            if *greedy {
                w.insert_entry(&entry(name, Kind::Mac, WANTED))?;
            }
            Ok(Answer::Address((*free).to_owned()))
        }
        Done::SetState { name, expected, state } => Ok(Answer::Generation(w.set_state(&id(name), *expected, *state)?)),
        Done::Force { name, state } => Ok(w.force_state(&id(name), *state).map(|()| Answer::Fine)?),
        Done::Delete { name, drops } => {
            drops.iter().try_for_each(|(kind, key)| w.drop_entry(*kind, key))?;
            Ok(w.delete_sandbox(&id(name)).map(|()| Answer::Fine)?)
        }
    }
}

fn id(name: &str) -> SandboxId {
    name.parse().unwrap()
}

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
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        accelerator: AcceleratorRequest::Auto,
    }
}

/// Every thread with a connection of its own, and one that only looks.
fn run(path: &Path, work: &[Vec<Op>]) -> (Vec<(Done, Answer)>, BTreeSet<Model>) {
    drop(Store::open(path).unwrap());
    let shared = Shared::default();
    let over = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let store = Store::look(path).unwrap().unwrap();
            let mut looks = BTreeSet::new();
            while !over.load(Ordering::SeqCst) {
                looks.insert(Model::read(&store));
            }
            looks
        });
        let workers: Vec<_> = work
            .iter()
            .map(|ops| {
                let shared = &shared;
                scope.spawn(move || {
                    let mut store = Store::open(path).unwrap();
                    for op in ops {
                        perform(&mut store, op, shared);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::SeqCst);
        let looks = reader.join().unwrap();
        for end in ended {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        looks
    });
    (shared.log.into_inner().unwrap(), looks)
}

fn ops() -> impl Strategy<Value = Op> {
    let name = || prop::sample::select(NAMES.to_vec());
    let state = || prop::sample::select(State::ALL.to_vec());
    prop_oneof![
        3 => (name(), any::<bool>()).prop_map(|(name, greedy)| Op::Create { name, greedy }),
        2 => (name(), state()).prop_map(|(name, state)| Op::SetState { name, state }),
        1 => (name(), state()).prop_map(|(name, state)| Op::Force { name, state }),
        3 => (name(), prop::bool::weighted(0.8)).prop_map(|(name, entries)| Op::Delete { name, entries }),
    ]
}

/// Threads and fsyncs make a case dear: a quarter of the usual number.
fn cases() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(4), failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_store_answers_several_like_one(work in prop::collection::vec(prop::collection::vec(ops(), 1..16), 2..4)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (log, looks) = run(&path, &work);
        prop_assert_eq!(log.len(), work.iter().map(Vec::len).sum::<usize>());
        let mut model = Model::default();
        let mut states = BTreeSet::from([model.clone()]);
        for (index, (done, answer)) in log.iter().enumerate() {
            let want = model.apply(done);
            prop_assert_eq!(&want, answer, "transaction {} of {:#?}", index, log);
            states.insert(model.clone());
        }
        prop_assert_eq!(&Model::read(&Store::open(&path).unwrap()), &model);
        for look in &looks {
            prop_assert!(states.contains(look), "a reader saw what never was: {look:#?}\n{log:#?}");
        }
    }
}
