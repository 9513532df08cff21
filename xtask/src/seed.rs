//! `cargo xtask seed N`: many stale sandboxes, made through the production acquire path.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// The task.
pub(crate) fn run(_workspace: &Workspace, _args: &[&str]) -> Result<()> {
    bail!("seed is not there yet")
}
