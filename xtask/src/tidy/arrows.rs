//! Which crate may see which.

use super::{Finding, Source, Tree};

/// Crate, and the workspace's crates it may name. `testkit` is added for tests, below.
const ARROWS: &[(&str, &[&str])] = &[
    ("smolvm-proto", &[]),
    ("smolvm-agent", &["smolvm-proto"]),
    ("smolvm-model", &[]),
    // Knows files and sockets it is given, and nothing of sandboxes.
    ("smolvm-oci", &["smolvm-model"]),
    ("smolvm-host", &["smolvm-model", "smolvm-oci", "smolvm-proto"]),
    ("smolvm", &["smolvm-host", "smolvm-model", "smolvm-proto"]),
    ("smolvm-cli", &["smolvm", "smolvm-model", "smolvm-proto"]),
    // What judges the product must not share its code, or both are wrong together.
    ("testkit", &[]),
    // Plays the parts beside the production launch code, so it has to see it; nothing may see it.
    ("standin", &["smolvm-host", "smolvm-model"]),
    ("seed", &["smolvm", "smolvm-model"]),
    // The benchmark's floor speaks to the agent in a guest.
    ("xtask", &["testkit", "smolvm-proto"]),
    // Tries the readers of all of them; nothing may see it.
    ("fuzz", &["smolvm", "smolvm-host", "smolvm-model", "smolvm-oci", "smolvm-proto"]),
];

/// Manifests first (what is possible), then paths in the code (what a future manifest would allow).
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(owner) = owner(&file.path) else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == owner) else {
            if file.path.ends_with("Cargo.toml") {
                findings.push(Finding::file(&file.path, format!("crate {owner} has no place in the picture yet: add it to tidy's arrows")));
            }
            continue;
        };
        if file.path.ends_with("/Cargo.toml") {
            findings.extend(manifest(file, owner, allowed));
        // The xtask has modules named like crates, and no dependency that its manifest does not show.
        } else if file.has_extension("rs") && owner != "xtask" {
            findings.extend(code(file, owner, allowed));
        }
    }
    findings
}

/// The crate a path belongs to.
fn owner(path: &str) -> Option<&str> {
    match path.strip_prefix("crates/") {
        Some(rest) => rest.split('/').next(),
        None => ["xtask", "fuzz"].into_iter().find(|owner| path.strip_prefix(owner).is_some_and(|rest| rest.starts_with('/'))),
    }
}

fn manifest(file: &Source, owner: &str, allowed: &[&str]) -> Vec<Finding> {
    let mut section = "";
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
            continue;
        }
        if !section.contains("dependencies") || line.starts_with('#') {
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        let for_tests = section == "[dev-dependencies]" && name == "testkit";
        if ARROWS.iter().any(|(known, _)| *known == name) && !allowed.contains(&name) && !for_tests {
            findings.push(Finding::line(&file.path, number, format!("{owner} must not depend on {name}")));
        }
    }
    findings
}

fn code(file: &Source, owner: &str, allowed: &[&str]) -> Vec<Finding> {
    // A dev-dependency is visible everywhere below `#[cfg(test)]`, so testkit is judged by the manifest alone.
    let forbidden: Vec<(String, &str)> = ARROWS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != owner && *name != "testkit" && *name != "xtask" && !allowed.contains(name))
        .map(|name| (format!("{}::", name.replace('-', "_")), name))
        .collect();
    let mut findings = Vec::new();
    for (number, line) in file.code() {
        for (path, name) in &forbidden {
            if names_crate(line, path) {
                findings.push(Finding::line(&file.path, number, format!("{owner} must not name {name}")));
            }
        }
    }
    findings
}

/// Whether `path` (`smolvm_host::`) stands in `line` as the start of a path.
fn names_crate(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"' || c == '`' || (c == ':' && line[..at].ends_with("::") && at > 2))
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn arrows_back_are_found_in_manifests() {
        let good = "[dependencies]\nsmolvm-model.workspace = true\n[dev-dependencies]\ntestkit.workspace = true\n";
        assert!(check(&sample(&[("crates/smolvm-host/Cargo.toml", good)])).is_empty());
        for bad in
            ["[dependencies]\nsmolvm.workspace = true", "[dependencies]\ntestkit.workspace = true", "[build-dependencies]\nsmolvm-cli = {}"]
        {
            assert_eq!(check(&sample(&[("crates/smolvm-host/Cargo.toml", bad)])).len(), 1, "{bad}");
        }
        assert_eq!(check(&sample(&[("crates/new/Cargo.toml", "")])).len(), 1);
    }

    #[test]
    fn arrows_back_are_found_in_code() {
        let bad = [
            ("crates/smolvm-model/src/a.rs", "use smolvm_host::proc;"),
            ("crates/smolvm-cli/src/a.rs", "fn f() { smolvm_host::net::x() }"),
            ("crates/testkit/src/a.rs", "use smolvm_model::name::Mark;"),
            ("crates/smolvm-host/src/a.rs", "use smolvm::lifecycle;"),
        ];
        for file in bad {
            assert_eq!(check(&sample(&[file])).len(), 1, "{file:?}");
        }
        let good = [
            ("crates/smolvm/src/a.rs", "use smolvm_host::proc;"),
            ("crates/smolvm-model/src/a.rs", "// see smolvm_host::proc\nlet mark = \"smolvm::\";"),
            ("crates/smolvm-host/src/a.rs", "use smolvm_model::name;"),
        ];
        assert!(check(&sample(&good)).is_empty());
    }
}
