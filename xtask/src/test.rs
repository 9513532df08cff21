//! `cargo xtask test`: everything that is needed, then every test.
//!
//! ```text
//!   deps ──► build --debug ──► smolvm setup (once, shared: SMOLVM_TEST_HOME) ──► nextest, or cargo test
//! ```
//!
//! What tests find in their environment: `SMOLVM_BIN` (the command, agent embedded), `SMOLVM_TEST_HOME`
//! (a home whose cache holds kernel and images; read-only by agreement), `SMOLVM_HOME` (a throwaway,
//! so that nothing ever reaches the user's own), `SMOLVM_LONG=1` with `--long`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::build::{self, Built, Profile};
use crate::deps::{self, Purpose};
use crate::sh::{Cmd, step, which};
use crate::workspace::{Workspace, cargo};

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    long: Effort,
    filters: Vec<String>,
}

/// How much patience there is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Effort {
    #[default]
    Usual,
    /// Many more property cases, and the tests that repeat until minutes have gone by.
    Long,
}

impl Options {
    /// Reads `[--long] [FILTER…]`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            match *word {
                "--long" => options.long = Effort::Long,
                flag if flag.starts_with('-') => bail!("test takes --long and names of tests, not {flag}"),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The task.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    deps::run(Purpose::Test)?;
    let built = build::smolvm(workspace, Profile::Debug)?;
    let images = images(workspace, &built)?;
    let throwaway = Throwaway::new(workspace)?;
    let mut runner = runner(workspace, options)
        .env("SMOLVM_AGENT_BIN", &built.agent)
        .env("SMOLVM_BIN", &built.smolvm)
        .env("SMOLVM_TEST_HOME", &images)
        .env("SMOLVM_HOME", &throwaway.0);
    if options.long == Effort::Long {
        runner = runner.env("SMOLVM_LONG", "1").env("PROPTEST_CASES", "8192");
    }
    runner.run()
}

fn runner(workspace: &Workspace, options: &Options) -> Cmd {
    let nextest = which("cargo-nextest").is_some();
    step(if nextest { "cargo nextest run" } else { "cargo test (cargo-nextest is not installed)" });
    let words: &[&str] = match (nextest, options.long) {
        (true, Effort::Usual) => &["nextest", "run"],
        // What repeats for an hour is not ended after minutes.
        (true, Effort::Long) => &["nextest", "run", "--profile", "long"],
        (false, _) => &["test", "--no-fail-fast"],
    };
    let runner = cargo().dir(&workspace.root).args(words).args(["--workspace", "--locked"]);
    // libtest takes one filter before `--` and more after it.
    if nextest || options.filters.len() < 2 { runner.args(&options.filters) } else { runner.arg("--").args(&options.filters) }
}

/// Prepares kernel and images in a home that all test runs share; a second time costs next to nothing.
fn images(workspace: &Workspace, built: &Built) -> Result<PathBuf> {
    let home = workspace.beneath_target("test-home");
    std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
    step("smolvm setup (kernel and images for the tests)");
    Cmd::new(&built.smolvm).arg("setup").env("SMOLVM_HOME", &home).run()?;
    Ok(home)
}

/// A home beneath the target directory that goes with the run.
struct Throwaway(PathBuf);

impl Throwaway {
    fn new(workspace: &Workspace) -> Result<Self> {
        let home = workspace.beneath_target(&format!("test-run-{}", std::process::id()));
        std::fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        Ok(Self(home))
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: {} is left: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_options() {
        assert_eq!(Options::parse(&[]).unwrap(), Options::default());
        let options = Options::parse(&["--long", "cleanup", "vm"]).unwrap();
        assert_eq!(options.long, Effort::Long);
        assert_eq!(options.filters, ["cleanup", "vm"]);
        assert!(Options::parse(&["--lnog"]).is_err());
    }
}
