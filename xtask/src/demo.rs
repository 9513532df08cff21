//! `cargo xtask demo`: the main job from nothing to a clean host, visibly.

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// The task.
pub(crate) fn run(_workspace: &Workspace) -> Result<()> {
    bail!("demo is not there yet")
}
