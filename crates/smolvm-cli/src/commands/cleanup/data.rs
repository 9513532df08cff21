//! The JSON data of `cleanup`: one shape for plan and report.

use serde_json::{Value, json};
use smolvm::cleanup::{CleanupPlan, CleanupReport, Failed, Orphan, SharedReport, StepView};
use smolvm_model::name::SandboxId;
use smolvm_model::select::Scope;

/// A plan that is only shown.
pub(super) fn of_plan(plan: &CleanupPlan) -> Value {
    let targets: Vec<SandboxId> = plan.targets.iter().map(|target| target.id.clone()).collect();
    Shape {
        scope: &plan.scope,
        dry_run: true,
        stale: &plan.reconciled_stale,
        targets: &targets,
        deleted: &[],
        failed: &plan.failed,
        orphans: &plan.orphans,
        steps: &plan.steps,
        shared: &[],
        freed_bytes: 0,
        duration_ms: 0,
    }
    .value()
}

/// What was done.
pub(super) fn of_report(report: &CleanupReport) -> Value {
    Shape {
        scope: &report.scope,
        dry_run: false,
        stale: &report.reconciled_stale,
        targets: &report.targets,
        deleted: &report.deleted,
        failed: &report.failed,
        orphans: &report.orphans,
        steps: &report.steps,
        shared: &report.shared,
        freed_bytes: report.freed_bytes,
        duration_ms: u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX),
    }
    .value()
}

struct Shape<'a> {
    scope: &'a Scope,
    dry_run: bool,
    stale: &'a [SandboxId],
    targets: &'a [SandboxId],
    deleted: &'a [SandboxId],
    failed: &'a [Failed],
    orphans: &'a [Orphan],
    steps: &'a [StepView],
    shared: &'a [SharedReport],
    freed_bytes: u64,
    duration_ms: u64,
}

impl Shape<'_> {
    fn value(&self) -> Value {
        let (all, prefix) = match self.scope {
            Scope::All => (true, None),
            Scope::Prefix(prefix) => (false, Some(prefix.as_str())),
        };
        json!({
            "all": all,
            "prefix": prefix,
            "dry_run": self.dry_run,
            "reconciled_stale_ids": ids(self.stale),
            "targets": ids(self.targets),
            "deleted": ids(self.deleted),
            "failed": self.failed.iter().map(failed).collect::<Vec<_>>(),
            "orphans": self.orphans.iter().map(orphan).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
            "shared": self.shared.iter().map(shared).collect::<Vec<_>>(),
            "summary": {
                "target_count": self.targets.len(),
                "deleted_count": self.deleted.len(),
                "failed_count": self.failed.len(),
                "freed_bytes": self.freed_bytes,
                "duration_ms": self.duration_ms,
            },
        })
    }
}

fn ids(ids: &[SandboxId]) -> Vec<&str> {
    ids.iter().map(SandboxId::as_str).collect()
}

/// `vm_id` is the key that scripts for an earlier tool read.
fn failed(failed: &Failed) -> Value {
    json!({"vm_id": failed.id, "error": failed.error, "code": failed.code.as_str(), "step": failed.step, "recovery": failed.recovery})
}

fn orphan(orphan: &Orphan) -> Value {
    json!({"kind": orphan.kind, "key": orphan.key, "owner": orphan.owner, "removed": orphan.removed, "remove": orphan.remove})
}

fn step(step: &StepView) -> Value {
    json!({"id": step.id, "kind": step.kind, "key": step.key, "outcome": step.outcome})
}

fn shared(shared: &SharedReport) -> Value {
    json!({"kind": shared.kind, "key": shared.key, "outcome": shared.outcome})
}
