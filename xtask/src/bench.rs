//! `cargo xtask bench`: the numbers of docs/promises.md, measured side by side in one run.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// The task.
pub(crate) fn run(_workspace: &Workspace, _args: &[&str]) -> Result<()> {
    bail!("bench is not there yet")
}
