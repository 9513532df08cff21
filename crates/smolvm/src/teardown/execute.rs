//! Runs a plan rank by rank, proves what it did, and writes it down.

use std::collections::{BTreeMap, HashMap, HashSet};

use smolvm_host::store::{Store, Writing};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::teardown::{After, Outcome, Plan, Rank, Step, Tracker};

use super::effects::{Effects, Sight};
use crate::error::Error;

/// One step and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct StepReport {
    pub(crate) step: Step,
    pub(crate) outcome: Outcome,
}

/// Everything a teardown did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) steps: Vec<StepReport>,
    pub(crate) freed_bytes: u64,
}

impl Report {
    /// The first failed step of a sandbox, if one failed; skipped ones follow from it.
    pub(crate) fn failure(&self, id: &SandboxId) -> Option<&StepReport> {
        self.steps.iter().find(|s| s.step.entry.sandbox == *id && matches!(s.outcome, Outcome::Failed { .. }))
    }

    /// Whether everything of a sandbox is proven gone.
    pub(crate) fn is_clear(&self, id: &SandboxId) -> bool {
        self.steps.iter().all(|s| s.step.entry.sandbox != *id || s.outcome.is_settled())
    }

    /// The same as [`Report::failure`] for every sandbox that has one, in one pass over the steps.
    pub(crate) fn failures(&self) -> HashMap<&SandboxId, &StepReport> {
        let mut first = HashMap::new();
        for step in self.steps.iter().filter(|s| matches!(s.outcome, Outcome::Failed { .. })) {
            first.entry(&step.step.entry.sandbox).or_insert(step);
        }
        first
    }

    /// The sandboxes that [`Report::is_clear`] denies, in one pass over the steps.
    pub(crate) fn unclear(&self) -> HashSet<&SandboxId> {
        self.steps.iter().filter(|s| !s.outcome.is_settled()).map(|s| &s.step.entry.sandbox).collect()
    }
}

/// Runs the plan. Changes the host, not the ledger.
pub(crate) fn execute(plan: &Plan, effects: &mut dyn Effects) -> Report {
    let mut tracker = Tracker::default();
    let mut report = Report::default();
    for (rank, steps) in &plan.ranks {
        let (free, blocked): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(|s| tracker.blocker(&s.entry).is_none());
        for step in blocked {
            let Some(blocked_by) = tracker.blocker(&step.entry) else { continue };
            let outcome = Outcome::Skipped { blocked_by };
            tracker.note(&step.entry, &outcome);
            report.steps.push(StepReport { step: step.clone(), outcome });
        }
        let entries: Vec<&Entry> = free.iter().map(|s| &s.entry).collect();
        let outcomes = run_rank(*rank, &entries, effects);
        for (step, outcome) in free.into_iter().zip(outcomes) {
            tracker.note(&step.entry, &outcome);
            report.steps.push(StepReport { step: step.clone(), outcome });
        }
    }
    prove(&mut report, effects);
    report.freed_bytes = effects.freed_bytes();
    report
}

fn run_rank(rank: Rank, entries: &[&Entry], effects: &mut dyn Effects) -> Vec<Outcome> {
    if entries.is_empty() {
        return Vec::new();
    }
    match rank {
        Rank::Process => effects.end_hypervisors(entries),
        Rank::Monitor => effects.end_monitors(entries),
        Rank::NftElements => effects.remove_elements(entries),
        Rank::Tap => effects.remove_taps(entries),
        Rank::RunDir => effects.remove_dirs(Kind::RunDir, entries),
        Rank::StateDir => effects.remove_dirs(Kind::StateDir, entries),
        // Nothing on the host: the names are free once everything that used them is gone.
        Rank::Reservation => vec![Outcome::Released; entries.len()],
    }
}

/// Looks at the host once more: what is called gone and is there is a failure, whatever the step said.
fn prove(report: &mut Report, effects: &mut dyn Effects) {
    let checked = |s: &StepReport| matches!(s.outcome, Outcome::Released | Outcome::AlreadyGone);
    let entries: Vec<&Entry> = report.steps.iter().filter(|s| checked(s)).map(|s| &s.step.entry).collect();
    let found = effects.still_there(&entries);
    for (step, found) in report.steps.iter_mut().filter(|s| checked(s)).zip(found) {
        step.outcome = match found {
            Sight::Gone => continue,
            Sight::There(what) => Outcome::Failed { code: ErrorCode::Internal, message: format!("still there after its removal: {what}") },
            Sight::Unseen { code, message } => Outcome::Failed { code, message: format!("whether it is gone cannot be seen: {message}") },
        };
    }
}

/// Writes down what is proven gone, inside the caller's transaction.
pub(crate) fn settle(w: &Writing<'_>, report: &Report) -> Result<(), Error> {
    // A sandbox's reservations stay until all else is gone, so that nobody gets an address in use.
    let mut clear: BTreeMap<&SandboxId, bool> = BTreeMap::new();
    for s in &report.steps {
        *clear.entry(&s.step.entry.sandbox).or_insert(true) &= s.outcome.is_settled();
    }
    for StepReport { step, outcome } in &report.steps {
        let entry = &step.entry;
        if !outcome.is_settled() {
            continue;
        }
        match (step.after, clear.get(&entry.sandbox)) {
            (After::Drop, Some(true)) => w.drop_entry(entry.kind, &entry.key)?,
            (After::Drop, _) => match entry.kind {
                Kind::Process | Kind::Monitor | Kind::RunDir | Kind::StateDir => w.drop_entry(entry.kind, &entry.key)?,
                Kind::NftElements | Kind::Tap => w.set_status(entry.kind, &entry.key, Status::Reserved)?,
                Kind::Address | Kind::Mac | Kind::Uid => {}
            },
            (After::Reserve, _) => w.set_status(entry.kind, &entry.key, Status::Reserved)?,
        }
    }
    Ok(())
}

/// Writes down what is proven gone in a transaction of its own.
pub(crate) fn settle_now(store: &mut Store, report: &Report) -> Result<(), Error> {
    store.write(Commit::Settled, |w| settle(w, report))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use smolvm_host::store::{NewSandbox, Store};
    use smolvm_model::spec::NetworkMode;
    use smolvm_model::teardown::Reason;

    use super::*;
    use crate::testing::spec;

    /// A host that is a set of keys, with one that will not go.
    #[derive(Default)]
    struct FakeHost {
        there: BTreeSet<(Kind, String)>,
        stuck: Option<(Kind, String)>,
        lies: Option<(Kind, String)>,
        blind: Option<Kind>,
    }

    impl FakeHost {
        fn holding(entries: &[Entry]) -> Self {
            let real = |e: &&Entry| e.status != Status::Reserved && !matches!(e.kind, Kind::Address | Kind::Mac | Kind::Uid);
            Self { there: entries.iter().filter(real).map(|e| (e.kind, e.key.clone())).collect(), ..Self::default() }
        }

        fn remove(&mut self, entries: &[&Entry]) -> Vec<Outcome> {
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
                    if self.there.remove(&key) { Outcome::Released } else { Outcome::AlreadyGone }
                })
                .collect()
        }
    }

    impl Effects for FakeHost {
        fn end_hypervisors(&mut self, entries: &[&Entry]) -> Vec<Outcome> {
            self.remove(entries)
        }
        fn end_monitors(&mut self, entries: &[&Entry]) -> Vec<Outcome> {
            self.remove(entries)
        }
        fn remove_elements(&mut self, entries: &[&Entry]) -> Vec<Outcome> {
            self.remove(entries)
        }
        fn remove_taps(&mut self, entries: &[&Entry]) -> Vec<Outcome> {
            self.remove(entries)
        }
        fn remove_dirs(&mut self, _kind: Kind, entries: &[&Entry]) -> Vec<Outcome> {
            self.remove(entries)
        }
        fn still_there(&mut self, entries: &[&Entry]) -> Vec<Sight> {
            let see = |e: &&Entry| match (self.blind == Some(e.kind), self.there.contains(&(e.kind, e.key.clone()))) {
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
                .map(|kind| Entry { sandbox: id.clone(), kind, key: format!("{name}-{kind}"), status: Status::Held, identity: None })
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
        let mut host = FakeHost::holding(&entries);
        let report = execute(&Plan::teardown(&entries, Reason::Stop), &mut host);
        settle_now(&mut store, &report).unwrap();
        let (_, left) = store.sandbox(&id("a")).unwrap().unwrap();
        let left: Vec<(Kind, Status)> = left.iter().map(|e| (e.kind, e.status)).collect();
        for gone in [Kind::Process, Kind::Monitor, Kind::RunDir] {
            assert!(left.iter().all(|(kind, _)| *kind != gone), "{gone}");
        }
        assert!(left.contains(&(Kind::Tap, Status::Reserved)) && left.contains(&(Kind::StateDir, Status::Held)));
        assert_eq!(host.there, BTreeSet::from([(Kind::StateDir, "a-state_dir".to_owned())]));
    }

    #[test]
    fn running_a_plan_twice_is_running_it_once() {
        let (_dir, mut store, entries) = ledger(&["a", "b"]);
        let mut host = FakeHost::holding(&entries);
        let plan = Plan::teardown(&entries, Reason::Delete);
        assert!(execute(&plan, &mut host).is_clear(&id("a")));
        // Killed before anything was written down: the same plan again.
        let again = execute(&plan, &mut host);
        let released =
            |s: &&StepReport| s.outcome == Outcome::Released && !matches!(s.step.entry.kind, Kind::Address | Kind::Mac | Kind::Uid);
        assert_eq!(again.steps.iter().filter(released).count(), 0);
        settle_now(&mut store, &again).unwrap();
        assert!(store.table().unwrap().entries.is_empty() && host.there.is_empty());
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
            let report = execute(&Plan::teardown(&entries, Reason::Delete), &mut host);
            settle_now(&mut store, &report).unwrap();
            assert!(report.is_clear(&id("b")) && !report.is_clear(&id("a")), "{kind}");
            assert_eq!(report.failure(&id("a")).map(|s| s.step.entry.kind), Some(kind));
            // All at once they say the same as one by one.
            assert_eq!(report.failures().into_iter().map(|(id, s)| (id.as_str(), s.step.entry.kind)).collect::<Vec<_>>(), [("a", kind)]);
            assert_eq!(report.unclear(), std::collections::HashSet::from([&id("a")]));
            let left = store.table().unwrap().entries;
            for (kind, key) in &host.there {
                assert!(left.iter().any(|e| e.kind == *kind && e.key == *key && e.status != Status::Reserved), "{kind} {key} is forgotten");
            }
            assert!(left.iter().any(|e| e.kind == Kind::Address), "an address was given free while its sandbox was not gone");
            host.stuck = None;
            let rest = execute(&Plan::teardown(&left, Reason::Delete), &mut host);
            settle_now(&mut store, &rest).unwrap();
            assert!(host.there.is_empty() && store.table().unwrap().entries.is_empty(), "{kind}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_again_is_not_proven_gone() {
        let (_dir, mut store, entries) = ledger(&["a"]);
        let mut host = FakeHost { blind: Some(Kind::Tap), ..FakeHost::holding(&entries) };
        let report = execute(&Plan::teardown(&entries, Reason::Delete), &mut host);
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
        let report = execute(&Plan::teardown(&entries, Reason::Delete), &mut host);
        assert!(!report.is_clear(&id("a")));
        assert_eq!(report.failure(&id("a")).unwrap().step.entry.kind, Kind::Tap);
    }
}
