//! What a removal or a build that was killed left behind.

use std::path::Path;

use super::report::{CheckReport, count};
use crate::installation::Smolvm;

const ID: &str = "trash";
/// More need not be counted.
const CAP: usize = 10_000;

/// How many things lie where.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    /// Directories of deleted sandboxes, not yet unlinked.
    sandboxes: usize,
    /// Directories of builds, and of copies.
    builds: usize,
}

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let paths = vm.paths();
    let sandboxes = entries(&paths.trash()) + entries(&paths.run.join(".trash"));
    let builds = entries(&paths.cache.join("tmp")) + entries(&paths.snapshots().join("tmp"));
    vec![judge(Left { sandboxes, builds })]
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).map_or(0, |entries| entries.take(CAP).count())
}

fn judge(left: Left) -> CheckReport {
    let evidence = format!("{} of deleted sandboxes, {} of builds", count(left.sandboxes, "directory", "directories"), left.builds);
    let fixes: Vec<&str> = [(left.sandboxes, "smolvm cleanup"), (left.builds, "smolvm prune")]
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(_, fix)| fix)
        .collect();
    if fixes.is_empty() {
        CheckReport::pass(ID, "nothing half removed or half built is left", evidence)
    } else {
        // Another command may be in the middle of it right now.
        CheckReport::warn(ID, "a removal or a build was killed, or is at work right now", evidence).mended_by(fixes.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_command() {
        let fix = |sandboxes, builds| judge(Left { sandboxes, builds }).fix;
        assert_eq!(fix(0, 0), None);
        assert_eq!(fix(1, 0).as_deref(), Some("smolvm cleanup"));
        assert_eq!(fix(0, 1).as_deref(), Some("smolvm prune"));
        assert_eq!(fix(1, 1).as_deref(), Some("smolvm cleanup; smolvm prune"));
    }
}
