use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use smolvm_host::store::{NewSandbox, Store};
use smolvm_model::ledger::ProcessIdentity;
use smolvm_model::spec::NetworkMode;
use smolvm_model::teardown::Reason;

use super::*;
use crate::testing::spec;

/// A host that is a set of keys, with one that will not go.
#[derive(Default)]
struct FakeHost {
    there: Mutex<BTreeSet<(Kind, String)>>,
    stuck: Option<(Kind, String)>,
    lies: Option<(Kind, String)>,
    blind: Option<Kind>,
    /// A monitor starts it as soon as somebody has looked, if it can.
    about_to_start: Mutex<Option<(Kind, String)>>,
    /// Where each lane of the wide wave waits for the others.
    meeting: Option<Meeting>,
}

/// Threads that wait for each other, but not for ever.
#[derive(Default)]
struct Meeting {
    there: Mutex<usize>,
    changed: Condvar,
}

impl Meeting {
    const LANES: usize = 3;

    fn all_are_there(&self) -> bool {
        let mut there = self.there.lock().unwrap();
        *there += 1;
        self.changed.notify_all();
        let missing = |there: &mut usize| *there < Self::LANES;
        !self.changed.wait_timeout_while(there, Duration::from_secs(20), missing).unwrap().1.timed_out()
    }
}

impl FakeHost {
    fn holding(entries: &[Entry]) -> Self {
        let real = |e: &&Entry| e.status != Status::Reserved && !matches!(e.kind, Kind::Address | Kind::Mac | Kind::Uid);
        Self { there: Mutex::new(entries.iter().filter(real).map(|e| (e.kind, e.key.clone())).collect()), ..Self::default() }
    }

    fn there(&self) -> MutexGuard<'_, BTreeSet<(Kind, String)>> {
        self.there.lock().unwrap()
    }

    fn remove_with_others(&self, entries: &[&Entry]) -> Vec<Outcome> {
        if self.meeting.as_ref().is_none_or(Meeting::all_are_there) {
            return self.remove(entries);
        }
        vec![Outcome::Failed { code: ErrorCode::Timeout, message: "alone".to_owned() }; entries.len()]
    }

    fn remove(&self, entries: &[&Entry]) -> Vec<Outcome> {
        entries
            .iter()
            .map(|e| {
                let key = (e.kind, e.key.clone());
                if self.stuck.as_ref() == Some(&key) {
                    return Outcome::Failed { code: ErrorCode::Timeout, message: "stuck".to_owned() };
                }
                if self.lies.as_ref() == Some(&key) {
                    return Outcome::Released;
                }
                if self.there().remove(&key) { Outcome::Released } else { Outcome::AlreadyGone }
            })
            .collect()
    }
}

impl Effects for FakeHost {
    fn end_hypervisors(&self, entries: &[&Entry]) -> Vec<Outcome> {
        let outcomes = self.remove(entries);
        self.there().extend(self.about_to_start.lock().unwrap().take());
        outcomes
    }
    fn end_monitors(&self, entries: &[&Entry]) -> Vec<Outcome> {
        *self.about_to_start.lock().unwrap() = None;
        self.remove(entries)
    }
    fn remove_elements(&self, entries: &[&Entry]) -> Vec<Outcome> {
        self.remove_with_others(entries)
    }
    fn remove_taps(&self, entries: &[&Entry]) -> Vec<Outcome> {
        self.remove_with_others(entries)
    }
    fn remove_dirs(&self, kind: Kind, entries: &[&Entry]) -> Vec<Outcome> {
        if kind == Kind::RunDir { self.remove_with_others(entries) } else { self.remove(entries) }
    }
    fn still_there(&self, entries: &[&Entry]) -> Vec<Sight> {
        let see = |e: &&Entry| match (self.blind == Some(e.kind), self.there().contains(&(e.kind, e.key.clone()))) {
            (true, _) => Sight::Unseen { code: ErrorCode::PermissionDenied, message: "dark".to_owned() },
            (false, true) => Sight::There(e.key.clone()),
            (false, false) => Sight::Gone,
        };
        entries.iter().map(see).collect()
    }
    fn freed_bytes(&self) -> u64 {
        0
    }
}

fn id(name: &str) -> SandboxId {
    name.parse().unwrap()
}

fn ledger(names: &[&str]) -> (tempfile::TempDir, Store, Vec<Entry>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(&dir.path().join("state.db")).unwrap();
    let mut entries = Vec::new();
    for name in names {
        let id = id(name);
        let mine: Vec<Entry> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let uuid = || "11111111-1111-4111-8111-111111111111".to_owned();
                let known = || ProcessIdentity { pid: 2, start_ticks: 1, boot_id: uuid(), token: uuid() };
                let identity = matches!(kind, Kind::Process | Kind::Monitor).then(known);
                Entry { sandbox: id.clone(), kind, key: format!("{name}-{kind}"), status: Status::Held, identity }
            })
            .collect();
        store
            .write(Commit::Create, |w| {
                w.insert_sandbox(&NewSandbox { id: &id, spec: &spec(NetworkMode::Tap), created_ms: 0, expires_ms: None })?;
                mine.iter().try_for_each(|e| w.insert_entry(e))
            })
            .unwrap();
        entries.extend(mine);
    }
    (dir, store, entries)
}

#[test]
fn a_stop_keeps_disk_and_names_and_frees_the_rest() {
    let (_dir, mut store, entries) = ledger(&["a"]);
    let host = FakeHost::holding(&entries);
    let report = execute(&Plan::teardown(&entries, Reason::Stop), &host);
    settle_now(&mut store, &report).unwrap();
    let (_, left) = store.sandbox(&id("a")).unwrap().unwrap();
    let left: Vec<(Kind, Status)> = left.iter().map(|e| (e.kind, e.status)).collect();
    for gone in [Kind::Process, Kind::Monitor, Kind::RunDir] {
        assert!(left.iter().all(|(kind, _)| *kind != gone), "{gone}");
    }
    assert!(left.contains(&(Kind::Tap, Status::Reserved)) && left.contains(&(Kind::StateDir, Status::Held)));
    assert_eq!(*host.there(), BTreeSet::from([(Kind::StateDir, "a-state_dir".to_owned())]));
}

#[test]
fn running_a_plan_twice_is_running_it_once() {
    let (_dir, mut store, entries) = ledger(&["a", "b"]);
    let host = FakeHost::holding(&entries);
    let plan = Plan::teardown(&entries, Reason::Delete);
    assert!(execute(&plan, &host).is_clear(&id("a")));
    // Killed before anything was written down: the same plan again.
    let again = execute(&plan, &host);
    let released = |s: &&StepReport| s.outcome == Outcome::Released && !matches!(s.step.entry.kind, Kind::Address | Kind::Mac | Kind::Uid);
    assert_eq!(again.steps.iter().filter(released).count(), 0);
    settle_now(&mut store, &again).unwrap();
    assert!(store.table().unwrap().entries.is_empty() && host.there().is_empty());
}

/// Whatever one step fails: the other sandbox goes entirely, what is left is recorded, and the next run finishes.
#[test]
fn any_single_failure_leaves_only_what_is_recorded() {
    for kind in Kind::ALL {
        if matches!(kind, Kind::Address | Kind::Mac | Kind::Uid) {
            continue;
        }
        let (_dir, mut store, entries) = ledger(&["a", "b"]);
        let mut host = FakeHost::holding(&entries);
        host.stuck = Some((kind, format!("a-{kind}")));
        let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
        settle_now(&mut store, &report).unwrap();
        assert!(report.is_clear(&id("b")) && !report.is_clear(&id("a")), "{kind}");
        assert_eq!(report.failure(&id("a")).map(|s| s.step.entry.kind), Some(kind));
        // All at once they say the same as one by one.
        assert_eq!(report.failures().into_iter().map(|(id, s)| (id.as_str(), s.step.entry.kind)).collect::<Vec<_>>(), [("a", kind)]);
        assert_eq!(report.unclear(), std::collections::HashSet::from([&id("a")]));
        let left = store.table().unwrap().entries;
        for (kind, key) in host.there().iter() {
            assert!(left.iter().any(|e| e.kind == *kind && e.key == *key && e.status != Status::Reserved), "{kind} {key} is forgotten");
        }
        assert!(left.iter().any(|e| e.kind == Kind::Address), "an address was given free while its sandbox was not gone");
        host.stuck = None;
        let rest = execute(&Plan::teardown(&left, Reason::Delete), &host);
        settle_now(&mut store, &rest).unwrap();
        assert!(host.there().is_empty() && store.table().unwrap().entries.is_empty(), "{kind}");
    }
}

#[test]
fn what_cannot_be_looked_at_again_is_not_proven_gone() {
    let (_dir, mut store, entries) = ledger(&["a"]);
    let host = FakeHost { blind: Some(Kind::Tap), ..FakeHost::holding(&entries) };
    let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
    let failed = report.failure(&id("a")).unwrap();
    assert!(matches!(failed.outcome, Outcome::Failed { code: ErrorCode::PermissionDenied, .. }), "{failed:?}");
    settle_now(&mut store, &report).unwrap();
    let left = store.table().unwrap().entries;
    assert!(left.iter().any(|e| e.kind == Kind::Tap && e.status == Status::Held), "{left:?}");
}

#[test]
fn a_step_that_claims_success_is_not_believed() {
    let (_dir, _store, entries) = ledger(&["a"]);
    let mut host = FakeHost::holding(&entries);
    host.lies = Some((Kind::Tap, "a-tap".to_owned()));
    let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
    assert!(!report.is_clear(&id("a")));
    assert_eq!(report.failure(&id("a")).unwrap().step.entry.kind, Kind::Tap);
}

#[test]
fn nothing_is_touched_that_a_process_may_hold_which_only_claims_to_have_ended() {
    let (_dir, _store, entries) = ledger(&["a"]);
    let mut host = FakeHost::holding(&entries);
    let all = host.there().clone();
    host.lies = Some((Kind::Process, "a-process".to_owned()));
    let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
    assert_eq!(report.failure(&id("a")).unwrap().step.entry.kind, Kind::Process);
    assert_eq!(*host.there(), all);
    assert!(report.steps.iter().all(|s| s.step.entry.kind == Kind::Process || matches!(s.outcome, Outcome::Skipped { .. })));
}

#[test]
fn what_has_nothing_to_do_with_each_other_goes_at_the_same_time() {
    let (_dir, _store, entries) = ledger(&["a"]);
    let host = FakeHost { meeting: Some(Meeting::default()), ..FakeHost::holding(&entries) };
    let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
    assert!(report.is_clear(&id("a")) && host.there().is_empty(), "{:?}", report.failures());
    let order: Vec<Kind> = report.steps.iter().map(|s| s.step.entry.kind).collect();
    assert!(report.steps.iter().is_sorted_by_key(|s| smolvm_model::teardown::rank(&s.step.entry)), "{order:?}");
}

#[test]
fn a_hypervisor_that_its_monitor_is_about_to_start_is_not_missed() {
    let (_dir, _store, mut entries) = ledger(&["a"]);
    let hypervisor = entries.iter_mut().find(|e| e.kind == Kind::Process).unwrap();
    (hypervisor.status, hypervisor.identity) = (Status::Intended, None);
    let key = (Kind::Process, hypervisor.key.clone());
    let host = FakeHost::holding(&entries);
    host.there().remove(&key);
    *host.about_to_start.lock().unwrap() = Some(key);
    let report = execute(&Plan::teardown(&entries, Reason::Delete), &host);
    assert!(report.is_clear(&id("a")) && host.there().is_empty(), "{:?}", report.failures());
}
