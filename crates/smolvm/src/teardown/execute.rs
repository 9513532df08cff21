//! Runs a plan rank by rank, proves what it did, and writes it down.

use std::collections::BTreeMap;

use smolvm_host::store::{Store, Writing};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::teardown::{After, Outcome, Plan, Rank, Step, Tracker};

use super::effects::Effects;
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
    let checked = |s: &&mut StepReport| matches!(s.outcome, Outcome::Released | Outcome::AlreadyGone);
    let mut settled: Vec<&mut StepReport> = report.steps.iter_mut().filter(checked).collect();
    let entries: Vec<Entry> = settled.iter().map(|s| s.step.entry.clone()).collect();
    let found = effects.still_there(&entries.iter().collect::<Vec<_>>());
    for (step, found) in settled.iter_mut().zip(found) {
        if let Some(what) = found {
            step.outcome = Outcome::Failed { code: ErrorCode::Internal, message: format!("still there after its removal: {what}") };
        }
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
    store.write(|w| settle(w, report))
}
