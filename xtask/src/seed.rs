//! `cargo xtask seed N`: many stale sandboxes, made through the production acquire path.
//!
//! The work is the `seed` program's, which links smolvm; this prepares what it stands on: the
//! command with its agent, and the `minimal` image in the home it fills.

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::deps::{self, Purpose};
use crate::sh::Cmd;
use crate::workspace::Workspace;

/// The task. It fills the home that `SMOLVM_HOME` names, and no other: a user's own is not for this.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let (only, count) = match args {
        [count] => (None, count),
        ["--rows-only", count] => (Some("--rows-only"), count),
        _ => bail!("seed takes one number, and --rows-only before it for records alone"),
    };
    let count: u32 = count.parse().with_context(|| format!("not a number of sandboxes: {count}"))?;
    let home = std::env::var_os("SMOLVM_HOME").context("set SMOLVM_HOME to a directory that is only for this")?;
    deps::run(Purpose::Demo)?;
    let built = build::smolvm(workspace, Profile::Release)?;
    let seed = build::program(workspace, Profile::Release, "seed", &built.agent)?;
    Cmd::new(&built.smolvm).args(["setup", "--image", "minimal"]).env("SMOLVM_HOME", &home).run()?;
    Cmd::new(seed).args(only).arg(count.to_string()).env("SMOLVM_HOME", &home).run()
}
