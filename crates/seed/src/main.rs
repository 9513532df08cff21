//! `seed N`: makes N stale sandboxes in `SMOLVM_HOME` through the product's own acquire path.
//!
//! Each has a disk, a run directory, a TAP, filter elements, reserved names, rows, and two real
//! processes (this program, holding still) in place of hypervisor and monitor, which are then
//! killed by SIGKILL. The images must be there: `smolvm setup --image minimal`.
//!
//! `seed --rows-only N`: only the rows and ledger entries of N such sandboxes, in few transactions; nothing on the host.
#![expect(clippy::disallowed_methods, reason = "a development tool: it reads the environment and starts itself")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use smolvm::seed::StandIns;
use smolvm::{Paths, Settings, Smolvm};
use smolvm_model::name::SandboxId;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "hold") {
        hold();
        return Ok(());
    }
    let rows_only = args.get(1).is_some_and(|a| a == "--rows-only");
    let count = args.get(if rows_only { 2 } else { 1 }).context("how many? seed [--rows-only] N")?;
    let count: u32 = count.parse().context("N is a number")?;
    let home: PathBuf =
        std::env::var_os("SMOLVM_HOME").context("SMOLVM_HOME must be set: this is no tool for a real state directory")?.into();
    let vm = Smolvm::open(Settings::new(Paths::beneath(&home)))?;
    let ids = (0..count).map(|i| format!("vm-seed-{i:05}").parse().context("an id that is none"));
    let ids: Vec<SandboxId> = ids.collect::<Result<_>>()?;
    if rows_only {
        vm.seed_rows(&ids)?;
        return Ok(());
    }
    for id in &ids {
        vm.seed(id, spawn).with_context(|| format!("sandbox {id}"))?;
    }
    Ok(())
}

/// Stands in for hypervisor and monitor: argv has mark and token at their fixed places.
fn spawn(mark: &str, token: &str) -> std::io::Result<StandIns> {
    let one = || {
        let mut command = Command::new("/proc/self/exe");
        command.args(["hold", mark, "-", token]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn()
    };
    Ok(StandIns { hypervisor: one()?, monitor: one()? })
}

/// Waits for the end of standard input, which is the end of the parent.
fn hold() {
    let _ = std::io::stdin().read(&mut [0]);
}
