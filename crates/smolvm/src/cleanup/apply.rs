//! Does what a plan says, as far as it is still true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use smolvm_host::image;
use smolvm_host::lock::{self, Lock};
use smolvm_host::store::{Found, SharedPart, Store, StoreError};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::Entry;
use smolvm_model::name::SandboxId;
use smolvm_model::select::{Scope, Selection, Why, select};
use smolvm_model::state::State;
use smolvm_model::teardown::{Plan, Reason};

use super::orphans::Orphan;
use super::plan::{CleanupPlan, Failed, StepView, Target, candidate, unknown};
use crate::delete::step_error;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::network::{SharedOutcome, release_shared};
use crate::observe::{Looker, Pids, process_of};
use crate::teardown::{HostEffects, Patience, Report, StepReport, execute, sweep};

/// How long one busy sandbox may hold the batch up: longer than a look takes the lock.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// How long a batch waits in all for monitors whose hypervisors are gone: writing down how takes them some 10 ms.
const MONITOR_PATIENCE: Duration = Duration::from_secs(2);
/// Sandboxes taken down together. More are not cheaper: what a batch costs beside its sandboxes is a few runs of `nft`.
const BATCH: usize = 1000;
/// Descriptors open at once for each of a batch: its lock and two process handles.
const DESCRIPTORS_EACH: u64 = 3;
/// Descriptors that the process has open anyway, or for a moment.
const DESCRIPTORS_SPARE: u64 = 96;

/// What `cleanup` did.
#[derive(Debug)]
pub struct CleanupReport {
    /// What was asked for.
    pub scope: Scope,
    /// Every sandbox that was stale at the look before.
    pub reconciled_stale: Vec<SandboxId>,
    /// What was to be removed.
    pub targets: Vec<SandboxId>,
    /// What is gone.
    pub deleted: Vec<SandboxId>,
    /// What is not, and why.
    pub failed: Vec<Failed>,
    /// Orphans, with what became of them.
    pub orphans: Vec<Orphan>,
    /// Every step and its outcome.
    pub steps: Vec<StepView>,
    /// What all sandboxes shared, if the last one went.
    pub shared: Vec<SharedReport>,
    /// Bytes of disk freed.
    pub freed_bytes: u64,
    /// How long it took.
    pub duration: Duration,
}

/// One shared part that was put back, or not.
#[derive(Debug, Clone)]
pub struct SharedReport {
    /// `nft_table` or `forwarding`.
    pub kind: String,
    /// Which one.
    pub key: String,
    /// `released`, `already_gone`, `kept: …` or `failed: …`.
    pub outcome: String,
}

impl Smolvm {
    /// Removes what the plan names, nothing that appeared since.
    pub fn cleanup_apply(&self, plan: CleanupPlan) -> Result<CleanupReport, Error> {
        let started = Instant::now();
        let mut report = CleanupReport {
            scope: plan.scope,
            reconciled_stale: plan.reconciled_stale,
            targets: plan.targets.iter().map(|t| t.id.clone()).collect(),
            deleted: Vec::new(),
            failed: plan.failed,
            orphans: plan.orphans,
            steps: Vec::new(),
            shared: Vec::new(),
            freed_bytes: 0,
            duration: Duration::ZERO,
        };
        let nothing_asked = plan.targets.is_empty() && !report.orphans.iter().any(|o| o.remove);
        let store = if nothing_asked { self.store_if_any() } else { self.store().map(Some) };
        // From here on an error is one of what it is about: what was done before it is told as well.
        match store {
            Ok(None) => {}
            Ok(Some(mut store)) => self.apply_to(&mut store, &plan.targets, &mut report),
            Err(e) if plan.targets.is_empty() => return Err(e),
            Err(e) => report.failed.extend(plan.targets.iter().map(|t| failed_by(&t.id, &e))),
        }
        for part in report.shared.iter().filter(|p| p.outcome.starts_with("failed")) {
            report.failed.push(Failed {
                id: format!("({})", part.kind),
                error: format!("{} {}: {}", part.kind, part.key, part.outcome),
                code: ErrorCode::Internal,
                step: Some(part.kind.clone()),
                recovery: Some("smolvm cleanup --all --force".to_owned()),
            });
        }
        report.failed.sort_by(|a, b| a.id.cmp(&b.id));
        report.deleted.sort();
        report.duration = started.elapsed();
        Ok(report)
    }

    fn apply_to(&self, store: &mut Store, targets: &[Target], report: &mut CleanupReport) {
        for batch in targets.chunks(batch_size()) {
            self.remove_batch(store, batch, report);
        }
        if let Err(e) = self.remove_orphans(store, report) {
            report.failed.push(failed_part("orphans", &e));
        }
        self.sweep_trash(report);
        self.sweep_builds(report);
        if let Err(e) = self.sweep_locks(store) {
            report.failed.push(failed_part("locks", &e));
        }
        match release_shared(self, store) {
            Ok(outcomes) => report.shared.extend(outcomes.into_iter().map(shared_report)),
            Err(e) => report.failed.push(failed_part("shared parts", &e)),
        }
    }

    fn remove_batch(&self, store: &mut Store, batch: &[Target], report: &mut CleanupReport) {
        let locked = self.lock_batch(store, batch, report);
        // One look for all of them, now that nobody else can be at work on any.
        let found = match store.sandboxes(locked.iter().map(|(target, _)| &target.id)) {
            Ok(found) => found,
            Err(e) => {
                let e = Error::from(e);
                report.failed.extend(locked.iter().map(|(target, _)| failed_by(&target.id, &e)));
                return;
            }
        };
        let pids = Pids::for_records(self, found.len());
        let mut locks: Vec<(SandboxId, Lock)> = Vec::new();
        let mut meant: Vec<Found> = Vec::new();
        for ((target, lock), found) in locked.into_iter().zip(found) {
            match self.still_meant(target, found, &report.scope, &pids) {
                Ok(Some(found)) => {
                    meant.push(found);
                    locks.push((target.id.clone(), lock));
                }
                Ok(None) => {
                    let _ = lock.remove();
                    report.deleted.push(target.id.clone());
                }
                Err(failed) => report.failed.push(failed),
            }
        }
        let teardown = match self.remove_found(store, meant, Reason::Delete) {
            Ok(teardown) => teardown,
            Err(e) => {
                report.failed.extend(locks.iter().map(|(id, _)| failed_by(id, &e)));
                return;
            }
        };
        report.freed_bytes += teardown.freed_bytes;
        report.steps.extend(step_views(&teardown));
        let failures = teardown.failures();
        for (id, lock) in locks {
            if let Some(step) = failures.get(&id) {
                let e = step_error(&id, step);
                report.failed.push(Failed { step: Some(step.step.entry.kind.to_string()), ..failed_by(&id, &e) });
            } else {
                // A lock file that stays is swept by the next cleanup; the sandbox is gone.
                let _ = lock.remove();
                report.deleted.push(id);
            }
        }
    }

    /// Takes the lock of every target that still has a row; one that has none was finished by somebody else.
    fn lock_batch<'t>(&self, store: &Store, batch: &'t [Target], report: &mut CleanupReport) -> Vec<(&'t Target, Lock)> {
        let rows = match store.generations() {
            Ok(rows) => rows,
            Err(e) => {
                let e = Error::from(e);
                report.failed.extend(batch.iter().map(|target| failed_by(&target.id, &e)));
                return Vec::new();
            }
        };
        let patience = Instant::now() + MONITOR_PATIENCE;
        let mut locked = Vec::with_capacity(batch.len());
        for target in batch {
            if !rows.contains_key(target.id.as_str()) {
                report.deleted.push(target.id.clone());
                continue;
            }
            if target.why == Why::Stale {
                self.hear_monitor(&target.id, patience);
            }
            match lock::take(&self.paths().lock(&target.id), BATCH_WAIT) {
                Ok(lock) => locked.push((target, lock)),
                Err(e) => report.failed.push(failed_by(&target.id, &e.into())),
            }
        }
        locked
    }

    /// Judges a target again by what its row says under its lock; `None` when somebody else finished it.
    fn still_meant(
        &self,
        target: &Target,
        found: Result<Option<Found>, StoreError>,
        scope: &Scope,
        pids: &Pids,
    ) -> Result<Option<Found>, Failed> {
        let id = &target.id;
        let Some(found) = found.map_err(|e| failed_by(id, &e.into()))? else { return Ok(None) };
        let (record, entries) = &found;
        let verdict = self.verdict_among(pids, record, process_of(record, entries), Looker::Holder);
        match select(scope, &candidate(record, verdict)) {
            Selection::Unknown { evidence } => Err(unknown(id, &evidence)),
            // Whoever began to delete it and was killed wanted the same.
            Selection::Target(_) if record.state == State::Deleting => Ok(Some(found)),
            Selection::Target(why) if why == target.why && record.generation == target.generation => Ok(Some(found)),
            Selection::Target(_) | Selection::Keep => Err(Failed {
                id: id.to_string(),
                error: "it changed after it was listed, so it was left alone".to_owned(),
                code: ErrorCode::Changed,
                step: None,
                recovery: Some("look again: smolvm cleanup --dry-run".to_owned()),
            }),
        }
    }

    /// Lets a monitor whose hypervisor has just ended say how: a guest that powered itself off in order is
    /// about to become stopped, and keeps its disk. A frozen monitor is waited for no longer than the patience.
    fn hear_monitor(&self, id: &SandboxId, patience: Instant) {
        let lock = self.paths().monitor_lock(id);
        while Instant::now() < patience && lock::is_held(&lock).unwrap_or(false) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Removes lock files of sandboxes that are in no record: their makers were killed before or after the row.
    fn sweep_locks(&self, store: &Store) -> Result<(), Error> {
        let rows = store.generations()?;
        for entry in std::fs::read_dir(self.paths().locks()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".lock")).and_then(|n| n.parse::<SandboxId>().ok());
            let Some(id) = id else { continue };
            if !rows.contains_key(id.as_str()) {
                // Held: somebody is about to write the row.
                let free = self.lock_for(&id, Duration::ZERO).ok().filter(|_| store.sandbox(&id).is_ok_and(|found| found.is_none()));
                if let Some(lock) = free {
                    lock.remove()?;
                }
            }
        }
        Ok(())
    }

    /// Removes what carries the mark and is in no record, by the same teardown.
    fn remove_orphans(&self, store: &mut Store, report: &mut CleanupReport) -> Result<(), Error> {
        let wanted: Vec<usize> = (0..report.orphans.len()).filter(|i| report.orphans[*i].remove).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        // Of a sandbox whose hypervisor cannot be proven nothing is touched: ending its monitor would end it, too.
        let doubted: BTreeSet<SandboxId> = wanted
            .iter()
            .map(|i| &report.orphans[*i])
            .filter(|o| o.doubt.is_some())
            .filter_map(|o| Some(o.entry.as_ref()?.sandbox.clone()))
            .collect();
        let mut locks: BTreeMap<SandboxId, Lock> = BTreeMap::new();
        let mut asked: Vec<(usize, Entry)> = Vec::new();
        for i in wanted {
            let orphan = &report.orphans[i];
            let Some(entry) = orphan.entry.clone() else {
                adopt_shared(store, &report.orphans[i])?;
                continue;
            };
            if let Some(doubt) = &orphan.doubt {
                report.failed.push(Failed {
                    id: entry.sandbox.to_string(),
                    error: doubt.clone(),
                    code: ErrorCode::Refused,
                    step: Some(orphan.kind.clone()),
                    recovery: Some("end it yourself if you know it, then run cleanup again".to_owned()),
                });
                continue;
            }
            if doubted.contains(&entry.sandbox) {
                continue;
            }
            if !locks.contains_key(&entry.sandbox) {
                match self.lock_for(&entry.sandbox, BATCH_WAIT) {
                    Ok(lock) => drop(locks.insert(entry.sandbox.clone(), lock)),
                    Err(e) => {
                        report.failed.push(failed_by(&entry.sandbox, &e));
                        continue;
                    }
                }
            }
            asked.push((i, entry));
        }
        // Somebody may have made a sandbox of that name since; then it is theirs. Looked up under all the locks at once.
        let rows = store.generations()?;
        asked.retain(|(_, entry)| !rows.contains_key(entry.sandbox.as_str()));
        let (indices, entries): (Vec<usize>, Vec<Entry>) = asked.into_iter().unzip();
        let teardown = execute(&Plan::teardown(&entries, Reason::Delete), &HostEffects::new(self, Patience::Short));
        report.freed_bytes += teardown.freed_bytes;
        report.steps.extend(step_views(&teardown));
        let same = |e: &Entry| (e.kind, e.key.clone(), e.identity.as_ref().map(|identity| (identity.pid, identity.start_ticks)));
        let steps: HashMap<_, &StepReport> = teardown.steps.iter().map(|step| (same(&step.step.entry), step)).collect();
        for (entry, i) in entries.iter().zip(indices) {
            match steps.get(&same(entry)) {
                Some(step) if step.outcome.is_settled() => report.orphans[i].removed = true,
                Some(step) => {
                    let e = step_error(&entry.sandbox, step);
                    report.failed.push(Failed { step: Some(entry.kind.to_string()), ..failed_by(&entry.sandbox, &e) });
                }
                None => {}
            }
        }
        for (id, lock) in locks {
            if !rows.contains_key(id.as_str()) {
                let _ = lock.remove();
            }
        }
        for orphan in report.orphans.iter_mut().filter(|o| o.remove && o.entry.is_none()) {
            // Put back with the shared parts below; what fails there is reported there.
            orphan.removed = true;
        }
        Ok(())
    }

    /// Removes what makers of images, templates and snapshots left that were killed; what a live one is at stays.
    fn sweep_builds(&self, report: &mut CleanupReport) {
        for swept in [image::sweep(&self.paths().cache), image::snapshot::sweep(&self.paths().snapshots())] {
            match swept {
                Ok(freed) => report.freed_bytes += freed,
                Err(e) => {
                    report
                        .failed
                        .push(failed_part("builds", &Error::new(ErrorCode::Internal, "what a killed build left stays").because(e)));
                }
            }
        }
    }

    /// Unlinks what an earlier cleaner had moved away when it was killed.
    fn sweep_trash(&self, report: &mut CleanupReport) {
        for dir in [self.paths().trash(), self.paths().run.join(".trash")] {
            for (name, removal) in sweep(&dir) {
                match removal {
                    Ok(removed) => report.freed_bytes += removed.bytes,
                    Err((code, message)) => report.failed.push(Failed {
                        error: format!("{} could not be unlinked: {message}", dir.join(&name).display()),
                        id: name.to_string_lossy().into_owned(),
                        code,
                        step: Some("trash".to_owned()),
                        recovery: Some("smolvm cleanup --force".to_owned()),
                    }),
                }
            }
        }
        // Left by a command that was killed; busy while another is at it, and then that one removes it.
        let _ = std::fs::remove_dir(self.paths().run.join(".trash"));
    }
}

/// Something of the whole installation that failed.
fn failed_part(what: &str, e: &Error) -> Failed {
    Failed { id: format!("({what})"), error: e.one_line(), code: e.code, step: Some(what.to_owned()), recovery: e.recovery.clone() }
}

/// A shared part that carries the mark and is in no record is recorded, to be put back like any other.
fn adopt_shared(store: &mut Store, orphan: &Orphan) -> Result<(), Error> {
    // Forwarding that stands in our table as opened was off before: that is what the set says.
    let value = |text: &str| (orphan.kind == "forwarding").then(|| text.to_owned());
    let part = SharedPart { kind: orphan.kind.clone(), key: orphan.key.clone(), before: value("0"), after: value("1") };
    Ok(store.write(Commit::Adopt, |w| w.note_shared(&part))?)
}

fn step_views(report: &Report) -> impl Iterator<Item = StepView> {
    report.steps.iter().map(|s| StepView {
        id: s.step.entry.sandbox.to_string(),
        kind: s.step.entry.kind.as_str(),
        key: s.step.entry.key.clone(),
        outcome: s.outcome.as_str(),
    })
}

fn failed_by(id: &SandboxId, e: &Error) -> Failed {
    Failed { id: id.to_string(), error: e.one_line(), code: e.code, step: None, recovery: e.recovery.clone() }
}

fn shared_report(outcome: SharedOutcome) -> SharedReport {
    let text = match outcome.result {
        Ok(word) => word.to_owned(),
        Err(e) => format!("failed: {e}"),
    };
    SharedReport { kind: outcome.kind, key: outcome.key, outcome: text }
}

/// As many as have descriptors: a full batch opens more than the customary soft limit of 1,024 allows.
fn batch_size() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = u64::try_from(BATCH).unwrap_or(u64::MAX).saturating_mul(DESCRIPTORS_EACH).saturating_add(DESCRIPTORS_SPARE);
    let limit = getrlimit(Resource::Nofile);
    let may = limit.maximum.map_or(wanted, |max| max.min(wanted));
    let granted = match limit.current {
        Some(current) if current < may => {
            let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(may), maximum: limit.maximum });
            if raised.is_ok() { may } else { current }
        }
        Some(_) | None => may,
    };
    fitting(granted)
}

/// The size of a batch for which so many descriptors are enough.
fn fitting(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_SPARE) / DESCRIPTORS_EACH).unwrap_or(BATCH).clamp(1, BATCH)
}

#[cfg(test)]
mod tests;
