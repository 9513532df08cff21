//! What carries this installation's mark and is in no record.

use std::collections::BTreeSet;

use smolvm_model::name::{IdPrefix, Mark};
use smolvm_model::select::Scope;

use super::hypervisor::NO_CACHE;
use super::report::{CheckReport, count};
use super::sandboxes::some;
use crate::cleanup::Orphan;
use crate::installation::Smolvm;

const ID: &str = "orphans";

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    // The search wants to know the hypervisor's executable, and would note the answer in the cache.
    let mut looker = vm.clone();
    looker.settings.paths.cache = NO_CACHE.into();
    vec![match looker.cleanup_plan(&Scope::All) {
        Ok(plan) => judge(&plan.orphans),
        Err(e) => CheckReport::fail(ID, "the host cannot be searched", e.one_line()).mended_by(e.recovery.unwrap_or_default()),
    }]
}

fn judge(orphans: &[Orphan]) -> CheckReport {
    if orphans.is_empty() {
        return CheckReport::pass(ID, "everything that carries this installation's mark is in its ledger", "");
    }
    let each: Vec<String> = orphans.iter().map(|o| format!("{} {} ({})", o.kind, o.key, o.owner)).collect();
    let shown: Vec<&str> = each.iter().map(String::as_str).collect();
    CheckReport::warn(
        ID,
        format!("{} this installation's mark and in no record", count(orphans.len(), "thing on the host with", "things on the host with")),
        some(&shown),
    )
    .mended_by(mend(orphans))
}

/// The narrowest cleanup that takes them all: `--all` would take every sandbox along.
fn mend(orphans: &[Orphan]) -> String {
    let marks: Vec<Option<Mark>> = orphans.iter().map(|o| o.owner.parse().ok()).collect();
    let ids: BTreeSet<&str> = marks.iter().flatten().map(|mark| mark.sandbox.as_str()).collect();
    let shared = marks.iter().any(Option::is_none);
    let automatic = IdPrefix::default();
    if !shared && ids.iter().all(|id| id.starts_with(automatic.as_str())) {
        "smolvm cleanup".to_owned()
    } else if !shared && ids.len() <= 3 {
        ids.iter().map(|id| format!("smolvm cleanup --prefix {id}")).collect::<Vec<_>>().join("; ")
    } else {
        "smolvm cleanup --all --dry-run   then without --dry-run, if no sandbox in the list is needed".to_owned()
    }
}
