//! Runs a plan wave by wave, proves what it did, and writes it down.

use std::collections::{BTreeMap, HashMap, HashSet};

use smolvm_host::store::{Store, Writing};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::teardown::{After, Lane, Outcome, Plan, Rank, Step, Tracker, WAVES};

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

/// Runs the plan wave by wave. Changes the host, not the ledger.
pub(crate) fn execute(plan: &Plan, effects: &dyn Effects) -> Report {
    let mut tracker = Tracker::default();
    let mut report = Report::default();
    for lanes in WAVES {
        let lanes: Vec<Lane> = lanes.iter().copied().filter(|lane| lane.iter().any(|rank| plan.ranks.contains_key(rank))).collect();
        let done = at_once(&lanes, |lane| run_lane(lane, plan, &tracker, effects));
        for step in done.into_iter().flatten() {
            tracker.note(&step.step.entry, &step.outcome);
            report.steps.push(step);
        }
    }
    prove(&mut report.steps, effects);
    report.freed_bytes = effects.freed_bytes();
    report
}

/// Runs each lane in a thread of its own, the last in this one, which runs them all where no thread can be had.
fn at_once<R: Send>(lanes: &[Lane], run: impl Fn(Lane) -> R + Sync) -> Vec<R> {
    let Some((last, others)) = lanes.split_last() else { return Vec::new() };
    let run = &run;
    std::thread::scope(|scope| {
        let others: Vec<_> =
            others.iter().map(|lane| (*lane, std::thread::Builder::new().spawn_scoped(scope, move || run(lane)))).collect();
        let last = run(last);
        let join = |(lane, thread): (Lane, std::io::Result<std::thread::ScopedJoinHandle<'_, R>>)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => run(lane),
        };
        others.into_iter().map(join).chain([last]).collect()
    })
}

fn run_lane(lane: Lane, plan: &Plan, tracker: &Tracker, effects: &dyn Effects) -> Vec<StepReport> {
    let steps = |rank| plan.ranks.get(rank).map_or(&[][..], Vec::as_slice);
    lane.iter().flat_map(|rank| run_rank(*rank, steps(rank), tracker, effects)).collect()
}

/// Runs the steps that nothing blocks. Whether processes have ended is looked at at once: what comes later relies on it.
fn run_rank(rank: Rank, steps: &[Step], tracker: &Tracker, effects: &dyn Effects) -> Vec<StepReport> {
    let (mut done, mut free) = (Vec::new(), Vec::new());
    for step in steps {
        match tracker.blocker(&step.entry) {
            Some(blocked_by) => done.push(StepReport { step: step.clone(), outcome: Outcome::Skipped { blocked_by } }),
            None => free.push(step),
        }
    }
    let entries: Vec<&Entry> = free.iter().map(|s| &s.entry).collect();
    let outcomes = act(rank, &entries, effects);
    let mut run: Vec<StepReport> =
        free.into_iter().zip(outcomes).map(|(step, outcome)| StepReport { step: step.clone(), outcome }).collect();
    if matches!(rank, Rank::Process | Rank::Monitor | Rank::Unrecorded) {
        prove(&mut run, effects);
    }
    done.append(&mut run);
    done
}

fn act(rank: Rank, entries: &[&Entry], effects: &dyn Effects) -> Vec<Outcome> {
    if entries.is_empty() {
        return Vec::new();
    }
    match rank {
        Rank::Process | Rank::Unrecorded => effects.end_hypervisors(entries),
        Rank::Monitor => effects.end_monitors(entries),
        Rank::NftElements => effects.remove_elements(entries),
        Rank::Tap => effects.remove_taps(entries),
        Rank::RunDir => effects.remove_dirs(Kind::RunDir, entries),
        Rank::StateDir => effects.remove_dirs(Kind::StateDir, entries),
        // Nothing on the host: the names are free once everything that used them is gone.
        Rank::Reservation => vec![Outcome::Released; entries.len()],
    }
}

/// Looks at the host again: what is called gone and is there is a failure, whatever the step said.
fn prove(steps: &mut [StepReport], effects: &dyn Effects) {
    let checked = |s: &StepReport| matches!(s.outcome, Outcome::Released | Outcome::AlreadyGone);
    let entries: Vec<&Entry> = steps.iter().filter(|s| checked(s)).map(|s| &s.step.entry).collect();
    let found = effects.still_there(&entries);
    for (step, found) in steps.iter_mut().filter(|s| checked(s)).zip(found) {
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
mod tests;
