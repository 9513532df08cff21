//! `cargo xtask seed N`: many stale sandboxes, made through the production acquire path.
//!
//! The work is done by the crate `seed`, which links the product's library; this task builds it with
//! the agent embedded, so that it finds the same prepared files as the product itself.

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let [count] = args else { bail!("usage: cargo xtask seed N, with SMOLVM_HOME set to a throwaway directory") };
    let count: u32 = count.parse().context("N is a number")?;
    let program = crate::build::seed(workspace)?;
    let status = std::process::Command::new(&program).arg(count.to_string()).status().with_context(|| format!("cannot run {}", program.display()))?;
    if status.success() { Ok(()) } else { bail!("seed ended with {status}") }
}
