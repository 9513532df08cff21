//! The JSON data of `cleanup`: one shape for plan and report.

use serde_json::{Value, json};
use smolvm::Smolvm;
use smolvm::cleanup::{CleanupPlan, CleanupReport, Failed, Orphan, PLAN_VERSION, SharedReport, StepView};
use smolvm_model::name::SandboxId;
use smolvm_model::select::Scope;

/// Says of a plan, or of what was done by one from a file, which one it is.
pub(super) fn plan_mark(vm: &Smolvm, plan: &CleanupPlan) -> Value {
    json!({
        "version": PLAN_VERSION,
        "installation": vm.install_id().as_str(),
        "fingerprint": vm.cleanup_fingerprint(plan).to_string(),
    })
}

/// A plan that is only shown.
pub(super) fn of_plan(plan: &CleanupPlan, mark: &Value) -> Value {
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
    .value(mark)
}

/// What was done; by a plan from a file, with that plan's mark.
pub(super) fn of_report(report: &CleanupReport, mark: &Value) -> Value {
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
    .value(mark)
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
    fn value(&self, mark: &Value) -> Value {
        let (all, prefix) = match self.scope {
            Scope::All => (true, None),
            Scope::Prefix(prefix) => (false, Some(prefix.as_str())),
        };
        json!({
            "all": all,
            "prefix": prefix,
            "dry_run": self.dry_run,
            "plan": mark,
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
