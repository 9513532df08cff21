//! `cargo xtask ci`: the same checks as `.ci/run`, by running it.

use anyhow::Result;

use crate::sh::Cmd;
use crate::workspace::Workspace;

/// The task.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    Cmd::new(workspace.root.join(".ci/run")).dir(&workspace.root).run()
}
