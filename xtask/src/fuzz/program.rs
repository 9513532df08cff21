//! The one program that holds all targets, and the list it gives of them.
//!
//! The compiler is the pinned, stable one: its sanitizers need a nightly, its coverage pass does not. So every crate that is
//! linked is instrumented by flags, and libFuzzer is linked as a library.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::sh::Cmd;
use crate::workspace::{Workspace, cargo};

const HOST: &str = "x86_64-unknown-linux-gnu";
const RUSTFLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";
/// What libFuzzer reads: a counter for every edge, where it is, and what was compared. A warning is an error, for nothing else lints
/// what is compiled here alone.
const INSTRUMENTED: &str = "-D warnings -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares";
/// Names the target to the program; without it, the program prints the list.
pub(super) const VARIABLE: &str = "SMOLVM_FUZZ_TARGET";

/// One target, as the program lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name, and that of its corpus.
    pub(super) name: String,
    /// The longest input it takes.
    pub(super) longest: usize,
}

/// Builds it and says where it is.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let output = workspace.beneath_target("fuzz/build");
    // With `--target`, so that the flags reach neither procedural macros nor build scripts.
    cargo()
        .dir(&workspace.root)
        .args(["build", "--locked", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", HOST, "--target-dir"])
        .arg(&output)
        .env(RUSTFLAGS, INSTRUMENTED)
        // Both would take the place of these flags.
        .without_env("RUSTFLAGS")
        .without_env("CARGO_ENCODED_RUSTFLAGS")
        .run()?;
    Ok(output.join(HOST).join("release/smolvm-fuzz"))
}

/// All targets, or those that were named.
pub(super) fn targets(program: &Path, wanted: &[String]) -> Result<Vec<Target>> {
    choose(&Cmd::new(program).without_env(VARIABLE).stdout()?, wanted)
}

fn choose(list: &str, wanted: &[String]) -> Result<Vec<Target>> {
    let read = |line: &str| {
        let (name, longest) = line.split_once(' ').context("a line of the list without a length")?;
        Ok(Target { name: name.to_owned(), longest: longest.parse().context("a length that is none")? })
    };
    let all: Vec<Target> = list.lines().map(read).collect::<Result<_>>()?;
    if let Some(unknown) = wanted.iter().find(|name| !all.iter().any(|target| target.name == **name)) {
        let names: Vec<&str> = all.iter().map(|target| target.name.as_str()).collect();
        bail!("no target is named {unknown}; there are {}", names.join(", "));
    }
    Ok(all.into_iter().filter(|target| wanted.is_empty() || wanted.contains(&target.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            choose("a 10\nb 20\n", &wanted).map(|targets| targets.into_iter().map(|target| target.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["a", "b"]);
        assert_eq!(names(&["b"]).unwrap(), ["b"]);
        assert!(format!("{:#}", names(&["c"]).unwrap_err()).contains("there are a, b"));
    }
}
