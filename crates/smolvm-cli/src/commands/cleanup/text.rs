//! What `cleanup` tells people.

use std::fmt::Write;

use smolvm::cleanup::{CleanupPlan, CleanupReport, Failed};
use smolvm::clock::now_ms;
use smolvm_model::quantity::display_bytes;
use smolvm_model::select::{Scope, Why};

use super::super::list::ago;
use super::Work;
use crate::output::{Columns, harmless};

/// The number of things to remove, in words.
pub(super) fn what(plan: &CleanupPlan) -> String {
    let running = plan.targets.iter().filter(|target| target.running).count();
    let orphans = plan.orphans.iter().filter(|orphan| orphan.remove).count();
    let mut parts = Vec::new();
    if !plan.targets.is_empty() {
        let note = if running == 0 { String::new() } else { format!(" ({running} running)") };
        parts.push(count(plan.targets.len(), "sandbox", "sandboxes") + &note);
    }
    if orphans > 0 {
        parts.push(count(orphans, "orphan", "orphans"));
    }
    parts.join(" and ")
}

fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// From more names than this on, a sentence of them is a wall; each also stands in the table and in the JSON.
const NAMED: usize = 10;

fn some_of(ids: &[&str]) -> String {
    match ids.split_at_checked(NAMED) {
        Some((shown, more @ [_, _, ..])) => format!("{} and {} more", shown.join(", "), more.len()),
        _ => ids.join(", "),
    }
}

/// What was found: stale ids, targets, orphans.
pub(super) fn findings(plan: &CleanupPlan) -> String {
    let mut text = String::new();
    if !plan.reconciled_stale.is_empty() {
        let ids: Vec<&str> = plan.reconciled_stale.iter().map(smolvm_model::name::SandboxId::as_str).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "Stale, their hypervisors are gone: {}", some_of(&ids));
    }
    if !plan.targets.is_empty() {
        let mut table = Columns::new(&["ID", "STATE", "WHY", "AGE", "HOLDS"]);
        for target in &plan.targets {
            let state = if target.why == Why::Stale { format!("{} (stale)", target.state) } else { target.state.to_string() };
            let age = ago((now_ms() - target.created_ms) / 1000);
            table.row(&[target.id.to_string(), state, target.why.as_str().to_owned(), age, target.holds.join(", ")]);
        }
        text.push_str(&table.text());
    }
    if !plan.orphans.is_empty() {
        let mut table = Columns::new(&["ORPHAN", "KEY", "OWNER", ""]);
        for orphan in &plan.orphans {
            let fate = if orphan.remove { "to remove" } else { "kept: --all removes it" };
            table.row(&[orphan.kind.clone(), orphan.key.clone(), orphan.owner.clone(), fate.to_owned()]);
        }
        text.push_str(&table.text());
    }
    text
}

/// A dry run.
pub(super) fn plan(plan: &CleanupPlan) -> String {
    let mut text = findings(plan);
    failures(&mut text, &plan.failed);
    if plan.has_work() {
        let _ = writeln!(text, "{} would be removed. Nothing was changed.", what(plan));
    } else if plan.failed.is_empty() {
        text.push_str(nothing(&plan.scope));
    }
    text
}

/// What was done.
pub(super) fn report(report: &CleanupReport) -> String {
    let mut text = String::new();
    for id in &report.deleted {
        let _ = writeln!(text, "deleted  {id}");
    }
    let mut removed = 0;
    for orphan in report.orphans.iter().filter(|orphan| orphan.removed) {
        removed += 1;
        let _ = writeln!(text, "removed  {} {}", harmless(&orphan.kind), harmless(&orphan.key));
    }
    failures(&mut text, &report.failed);
    let asked = !report.targets.is_empty() || !report.failed.is_empty() || report.orphans.iter().any(|orphan| orphan.remove);
    if !asked {
        return nothing(&report.scope).to_owned();
    }
    for part in &report.shared {
        let _ = writeln!(text, "shared   {} {}: {}", harmless(&part.kind), harmless(&part.key), harmless(&part.outcome));
    }
    let orphans = if removed == 0 { String::new() } else { format!(", {} removed", count(removed, "orphan", "orphans")) };
    let _ = writeln!(
        text,
        "{}: {} deleted, {} failed{orphans}; {} freed in {} ms",
        count(report.targets.len(), "target", "targets"),
        report.deleted.len(),
        report.failed.len(),
        display_bytes(report.freed_bytes),
        report.duration.as_millis(),
    );
    text
}

fn failures(text: &mut String, failed: &[Failed]) {
    for failure in failed {
        let _ = writeln!(text, "failed   {}: {} ({})", harmless(&failure.id), harmless(&failure.error), failure.code);
        if let Some(recovery) = &failure.recovery {
            let _ = writeln!(text, "         {}", harmless(recovery));
        }
    }
}

fn nothing(scope: &Scope) -> &'static str {
    match scope {
        Scope::All => "There is nothing to clean up: there are no sandboxes.\n",
        Scope::Prefix(_) => "There is nothing to clean up.\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_only_the_first_are_told() {
        let ids: Vec<String> = (0..400).map(|n| format!("vm-{n}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(some_of(&ids[..2]), "vm-0, vm-1");
        // "and 1 more" would be no shorter than its name.
        assert!(some_of(&ids[..11]).ends_with("vm-9, vm-10"));
        assert!(some_of(&ids).ends_with("vm-8, vm-9 and 390 more"));
    }
}
