//! How a source file opens, and how long it is.

use super::{Finding, Tree};

const SOFT: usize = 400;
const HARD: usize = 600;
const WAIVER: &str = "// tidy: long because ";

/// Every file of the product and of the tools opens with `//!`; only inner attributes may come first.
pub(super) fn module_docs(tree: &Tree) -> Vec<Finding> {
    // A module's own `tests.rs` says what it is by its name.
    let judged = |path: &str| {
        ((path.starts_with("crates/") && path.contains("/src/")) || path.starts_with("xtask/src/") || path.starts_with("fuzz/src/"))
            && !path.ends_with("/tests.rs")
    };
    tree.rust()
        .filter(|file| judged(&file.path) && !opens_with_docs(&file.text))
        .map(|file| Finding::file(&file.path, "does not open with //!"))
        .collect()
}

fn opens_with_docs(text: &str) -> bool {
    let mut inside_attribute = false;
    for line in text.lines().map(str::trim) {
        if inside_attribute || line.starts_with("#![") {
            inside_attribute = !line.ends_with(']');
        } else if !line.is_empty() {
            return line.starts_with("//! ");
        }
    }
    false
}

/// Soft and hard limit; the hard one can be lifted in the file, with a reason.
pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        let lines = file.text.lines().count();
        let waived = file.lines().any(|(_, line)| line.strip_prefix(WAIVER).is_some_and(|reason| !reason.trim().is_empty()));
        if lines > HARD && !waived {
            findings.push(Finding::file(&file.path, format!("{lines} lines, {HARD} at most; or `{WAIVER}…` on a line of its own")));
        } else if lines > SOFT {
            findings.push(Finding::file(&file.path, format!("{lines} lines, aim at {SOFT}")).into_warning());
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{Weight, sample};
    use super::*;

    #[test]
    fn files_without_docs_are_found() {
        for bad in
            ["", "use std::fs;\n//! Late.", "/// Not a module doc.\nfn f() {}", "#![allow(unsafe_code)]\nfn f() {}", "//!\nfn f() {}"]
        {
            assert_eq!(module_docs(&sample(&[("crates/a/src/b.rs", bad)])).len(), 1, "{bad:?}");
        }
        for good in ["//! Yes.", "#![allow(\n    unsafe_code,\n    reason = \"x\"\n)]\n\n//! Yes."] {
            assert!(module_docs(&sample(&[("crates/a/src/b.rs", good)])).is_empty(), "{good:?}");
        }
        assert!(module_docs(&sample(&[("crates/a/tests/b.rs", "fn f() {}")])).is_empty());
    }

    #[test]
    fn long_files_warn_then_fail_unless_waived() {
        let weights = |text: &str| length(&sample(&[("a.rs", text)])).iter().map(|f| f.weight).collect::<Vec<_>>();
        assert_eq!(weights(&"x\n".repeat(400)), []);
        assert_eq!(weights(&"x\n".repeat(401)), [Weight::Warn]);
        assert_eq!(weights(&"x\n".repeat(601)), [Weight::Fail]);
        assert_eq!(weights(&format!("{WAIVER}the table is one\n{}", "x\n".repeat(601))), [Weight::Warn]);
        assert_eq!(weights(&format!("{WAIVER}\n{}", "x\n".repeat(601))), [Weight::Fail]);
    }
}
