//! A plan in a file: what `cleanup --dry-run --json` printed, to be done later, or refused.
//!
//! Nothing of the file is done but what a new look finds all the same: from it come the scope of that look and the
//! fingerprint it must have. So a file that was written by somebody else can make cleanup refuse, and no more.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use smolvm::Smolvm;
use smolvm::cleanup::{CleanupPlan, PLAN_VERSION, WrittenPlan, WrittenPlanError};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::select::Scope;

use crate::output::{Problem, harmless};

/// A plan of ten thousand sandboxes has some 15 MiB.
const CAP: u64 = 64 << 20;
/// As many differences are named.
const NAMED: usize = 5;

/// A plan that was read.
#[derive(Debug)]
pub(super) struct PlanFile(WrittenPlan);

impl PlanFile {
    /// Reads the whole output of a dry run, or its `data` alone.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        let shown = harmless(&path.display().to_string());
        let no_plan = |why: &str| {
            Problem::new(ErrorCode::UsageError, format!("{shown:?} is no plan of cleanup: {why}"))
                .hint("smolvm cleanup --dry-run --json > FILE   makes one")
        };
        let text = text_of(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidInput => no_plan("it is no regular file of a plan's size"),
            _ => Problem::new(ErrorCode::NotFound, format!("the plan {shown:?} cannot be read")).because(&e),
        })?;
        WrittenPlan::parse(&text).map(Self).map_err(|e| match e {
            WrittenPlanError::OtherVersion { found } => Problem::new(
                ErrorCode::Unsupported,
                format!("the plan {shown:?} has version {found}, and this smolvm knows {PLAN_VERSION}"),
            )
            .hint("make and apply it with the same smolvm"),
            why => no_plan(&why.to_string()),
        })
    }

    /// What was asked for when it was made.
    pub(super) fn scope(&self) -> &Scope {
        &self.0.scope
    }

    /// Fails unless `found`, a look at the host as it is now, is this very plan.
    pub(super) fn hold_against(&self, vm: &Smolvm, found: &CleanupPlan) -> Result<(), Problem> {
        if self.0.installation != vm.install_id().as_str() {
            return Err(Problem::new(ErrorCode::Refused, "the plan was made for another installation; nothing was changed")
                .hint("--home and SMOLVM_HOME say which installation is meant"));
        }
        if vm.cleanup_fingerprint(found).to_string() == self.0.fingerprint {
            return Ok(());
        }
        Err(Problem::new(
            ErrorCode::Changed,
            format!("the host is not as it was when the plan was made ({}); nothing was changed", self.difference(found)),
        )
        .hint("smolvm cleanup --dry-run --json > FILE   makes a new plan"))
    }

    fn difference(&self, found: &CleanupPlan) -> String {
        let now: BTreeSet<String> = found.targets.iter().map(|target| target.id.to_string()).collect();
        let named = |what: &str, ids: Vec<&String>| {
            let list: Vec<_> = ids.iter().take(NAMED).map(|id| harmless(id)).collect();
            let more = ids.len().saturating_sub(NAMED);
            match (ids.len(), more) {
                (0, _) => None,
                (_, 0) => Some(format!("{what}: {}", list.join(", "))),
                _ => Some(format!("{what}: {} and {more} more", list.join(", "))),
            }
        };
        let parts = [
            named("new targets", now.difference(&self.0.targets).collect()),
            named("no targets any more", self.0.targets.difference(&now).collect()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "the same targets, in another state or with other things".to_owned() } else { parts.join("; ") }
    }
}

/// A FIFO would keep us waiting and a device has no end: only a file is read.
fn text_of(path: &Path) -> std::io::Result<String> {
    let file = File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > CAP {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    // It may grow meanwhile.
    file.take(CAP).read_to_string(&mut text)?;
    Ok(text)
}
