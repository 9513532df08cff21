//! A digest of everything that a plan rests on, so that a plan can be kept, read by somebody, and done later or not at all.
//!
//! Two plans have the same fingerprint exactly when they would do the same steps to the same things, found in the same state,
//! in the same boot of the host. What changes by itself (ages, the wording of evidence) is not part of it.

use serde::Serialize;
use smolvm_host::image::Digest;
use smolvm_model::select::Scope;

use super::plan::CleanupPlan;
use crate::installation::Smolvm;

/// Raised when what is hashed, or how, changes: a plan made by another version is then refused as one, not as a changed host.
pub const PLAN_VERSION: u32 = 1;

/// What a plan says, in an order of its own.
#[derive(Serialize)]
struct Evidence<'a> {
    version: u32,
    installation: &'a str,
    boot: &'a str,
    prefix: Option<&'a str>,
    stale: Vec<&'a str>,
    targets: Vec<Target<'a>>,
    unjudged: Vec<(&'a str, &'a str)>,
    orphans: Vec<Orphan<'a>>,
    steps: Vec<(&'a str, &'a str, &'a str)>,
}

#[derive(Serialize)]
struct Target<'a> {
    id: &'a str,
    state: &'a str,
    why: &'a str,
    running: bool,
    generation: i64,
    created_ms: i64,
    holds: &'a [String],
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Orphan<'a> {
    kind: &'a str,
    key: &'a str,
    owner: &'a str,
    remove: bool,
    doubted: bool,
    process: Option<(u32, u64, &'a str)>,
}

impl Smolvm {
    /// The fingerprint of a plan of this installation.
    pub fn cleanup_fingerprint(&self, plan: &CleanupPlan) -> Digest {
        let mut orphans: Vec<Orphan<'_>> = plan
            .orphans
            .iter()
            .map(|orphan| Orphan {
                kind: &orphan.kind,
                key: &orphan.key,
                owner: &orphan.owner,
                remove: orphan.remove,
                doubted: orphan.doubt.is_some(),
                process: orphan.entry.as_ref().and_then(|e| e.identity.as_ref()).map(|i| (i.pid, i.start_ticks, i.token.as_str())),
            })
            .collect();
        // Found in the order in which the kernel lists things, which means nothing.
        orphans.sort();
        let mut unjudged: Vec<_> = plan.failed.iter().map(|failed| (failed.id.as_str(), failed.code.as_str())).collect();
        unjudged.sort_unstable();
        let evidence = Evidence {
            version: PLAN_VERSION,
            installation: self.install.as_str(),
            boot: &self.boot_id,
            prefix: match &plan.scope {
                Scope::All => None,
                Scope::Prefix(prefix) => Some(prefix.as_str()),
            },
            stale: plan.reconciled_stale.iter().map(smolvm_model::name::SandboxId::as_str).collect(),
            targets: plan
                .targets
                .iter()
                .map(|target| Target {
                    id: target.id.as_str(),
                    state: target.state.as_str(),
                    why: target.why.as_str(),
                    running: target.running,
                    generation: target.generation,
                    created_ms: target.created_ms,
                    holds: &target.holds,
                })
                .collect(),
            unjudged,
            orphans,
            steps: plan.steps.iter().map(|step| (step.id.as_str(), step.kind, step.key.as_str())).collect(),
        };
        // Plain texts and numbers: they always serialize.
        Digest::of(&[&serde_json::to_vec(&evidence).unwrap_or_default()])
    }
}
