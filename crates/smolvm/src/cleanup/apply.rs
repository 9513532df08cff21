//! Does what a plan says, as far as it is still true.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use smolvm_host::effect::perform;
use smolvm_host::fsx::remove_tree;
use smolvm_host::lock::{self, Lock};
use smolvm_host::store::{SharedPart, Store};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::error_code::ErrorCode;
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
use crate::observe::Looker;
use crate::teardown::{HostEffects, Patience, Report, execute};

/// How long one busy sandbox may hold the batch up: longer than a look takes the lock.
const BATCH_WAIT: Duration = Duration::from_millis(100);
/// How long a batch waits in all for monitors whose hypervisors are gone: writing down how takes them some 10 ms.
const MONITOR_PATIENCE: Duration = Duration::from_secs(2);
/// Sandboxes taken down together. Each needs a lock and two process handles open at once.
const BATCH: usize = 500;
/// Descriptors for a batch, and what the process has open anyway.
const DESCRIPTORS: u64 = 4096;

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
        raise_descriptor_limit();
        for batch in targets.chunks(BATCH) {
            self.remove_batch(store, batch, report);
        }
        if let Err(e) = self.remove_orphans(store, report) {
            report.failed.push(failed_part("orphans", &e));
        }
        self.sweep_trash(report);
        if let Err(e) = self.sweep_locks(store) {
            report.failed.push(failed_part("locks", &e));
        }
        match release_shared(self, store) {
            Ok(outcomes) => report.shared.extend(outcomes.into_iter().map(shared_report)),
            Err(e) => report.failed.push(failed_part("shared parts", &e)),
        }
    }

    fn remove_batch(&self, store: &mut Store, batch: &[Target], report: &mut CleanupReport) {
        let mut locks: Vec<(SandboxId, Lock)> = Vec::new();
        let patience = Instant::now() + MONITOR_PATIENCE;
        for target in batch {
            match self.still_meant(store, target, &report.scope, patience) {
                Ok(Some(lock)) => locks.push((target.id.clone(), lock)),
                Ok(None) => report.deleted.push(target.id.clone()),
                Err(failed) => report.failed.push(failed),
            }
        }
        let ids: Vec<SandboxId> = locks.iter().map(|(id, _)| id.clone()).collect();
        let teardown = match self.remove_locked(store, &ids, Reason::Delete) {
            Ok(teardown) => teardown,
            Err(e) => {
                report.failed.extend(ids.iter().map(|id| failed_by(id, &e)));
                return;
            }
        };
        report.freed_bytes += teardown.freed_bytes;
        report.steps.extend(step_views(&teardown));
        for (id, lock) in locks {
            if let Some(step) = teardown.failure(&id) {
                let e = step_error(&id, step);
                report.failed.push(Failed { step: Some(step.step.entry.kind.to_string()), ..failed_by(&id, &e) });
            } else {
                // A lock file that stays is swept by the next cleanup; the sandbox is gone.
                let _ = lock.remove();
                report.deleted.push(id);
            }
        }
    }

    /// Judges a target again under its lock; `None` when somebody else finished it.
    fn still_meant(&self, store: &Store, target: &Target, scope: &Scope, patience: Instant) -> Result<Option<Lock>, Failed> {
        let id = &target.id;
        let fail = |e: Error| failed_by(id, &e);
        if store.sandbox(id).map_err(|e| fail(e.into()))?.is_none() {
            return Ok(None);
        }
        if target.why == Why::Stale {
            self.hear_monitor(id, patience);
        }
        let lock = self.lock_for(id, BATCH_WAIT).map_err(fail)?;
        let Some((record, entries)) = store.sandbox(id).map_err(|e| fail(e.into()))? else {
            let _ = lock.remove();
            return Ok(None);
        };
        let verdict = self.verdict(&record, &entries, Looker::Holder);
        match select(scope, &candidate(&record, verdict)) {
            Selection::Unknown { evidence } => Err(unknown(id, &evidence)),
            // Whoever began to delete it and was killed wanted the same.
            Selection::Target(_) if record.state == State::Deleting => Ok(Some(lock)),
            Selection::Target(why) if why == target.why && record.generation == target.generation => Ok(Some(lock)),
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
        for entry in std::fs::read_dir(self.paths().locks()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|n| n.strip_suffix(".lock")).and_then(|n| n.parse::<SandboxId>().ok());
            let Some(id) = id else { continue };
            if store.sandbox(&id).is_ok_and(|found| found.is_none()) {
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
        let mut locks: Vec<(SandboxId, Lock)> = Vec::new();
        let mut entries = Vec::new();
        let mut indices = Vec::new();
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
            if !locks.iter().any(|(id, _)| *id == entry.sandbox) {
                match self.lock_for(&entry.sandbox, BATCH_WAIT) {
                    Ok(lock) => locks.push((entry.sandbox.clone(), lock)),
                    Err(e) => {
                        report.failed.push(failed_by(&entry.sandbox, &e));
                        continue;
                    }
                }
            }
            // Somebody may have made a sandbox of that name since; then it is theirs.
            if store.sandbox(&entry.sandbox).is_ok_and(|found| found.is_none()) {
                entries.push(entry);
                indices.push(i);
            }
        }
        let teardown = execute(&Plan::teardown(&entries, Reason::Delete), &mut HostEffects::new(self, Patience::Short));
        report.freed_bytes += teardown.freed_bytes;
        report.steps.extend(step_views(&teardown));
        for (entry, i) in entries.iter().zip(indices) {
            let step = teardown.steps.iter().find(|s| s.step.entry == *entry);
            match step {
                Some(step) if step.outcome.is_settled() => report.orphans[i].removed = true,
                Some(step) => {
                    let e = step_error(&entry.sandbox, step);
                    report.failed.push(Failed { step: Some(entry.kind.to_string()), ..failed_by(&entry.sandbox, &e) });
                }
                None => {}
            }
        }
        for (id, lock) in locks {
            if store.sandbox(&id).is_ok_and(|found| found.is_none()) {
                let _ = lock.remove();
            }
        }
        for orphan in report.orphans.iter_mut().filter(|o| o.remove && o.entry.is_none()) {
            // Put back with the shared parts below; what fails there is reported there.
            orphan.removed = true;
        }
        Ok(())
    }

    /// Unlinks what an earlier cleaner had moved away when it was killed.
    fn sweep_trash(&self, report: &mut CleanupReport) {
        for dir in [self.paths().trash(), self.paths().run.join(".trash")] {
            let Ok(handle) = std::fs::File::open(&dir) else { continue };
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                match perform(Effect::EmptyTrash, |_| remove_tree(&handle, &entry.file_name())) {
                    Ok(removed) => report.freed_bytes += removed.bytes,
                    Err(e) => report.failed.push(Failed {
                        id: entry.file_name().to_string_lossy().into_owned(),
                        error: format!("{} could not be unlinked: {}", entry.path().display(), e.source),
                        code: crate::error::io_code(&e.source),
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

/// A batch opens more descriptors than the customary soft limit of 1,024 allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(DESCRIPTORS, |max| max.min(DESCRIPTORS));
    if limit.current.is_some_and(|current| current < wanted) {
        // Refused, the batch runs into the limit and says so for each sandbox; nothing is lost.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}
