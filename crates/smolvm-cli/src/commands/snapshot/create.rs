//! `snapshot create`.

use clap::Args;
use serde_json::json;
use smolvm::snapshot::{Kind, SnapshotRequest};
use smolvm_model::name::SandboxId;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::fork::millis;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, tell};

/// Save a sandbox as it is now: memory, devices and disk
#[derive(Debug, Args)]
#[command(after_help = "\
A sandbox that runs stands still for a moment and goes on; of one that does not run its disk is saved.

Examples:
  smolvm snapshot create build
  smolvm snapshot create build --name before-upgrade
  smolvm snapshot create build --disk-only")]
pub(crate) struct Create {
    /// The sandbox to save
    #[arg(value_name = "NAME")]
    sandbox: SandboxId,
    /// The snapshot's name [default: the sandbox's with a number]
    #[arg(long = "name", value_name = "SNAPSHOT")]
    snapshot: Option<SandboxId>,
    /// Save the files alone; what is restored boots
    #[arg(long)]
    disk_only: bool,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Create {
    const PATH: &'static str = "snapshot.create";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Saving \"{}\"", self.sandbox));
        let kind = self.disk_only.then_some(Kind::Disk);
        let saved = vm.save_snapshot(&SnapshotRequest { sandbox: self.sandbox.clone(), name: self.snapshot.clone(), kind })?;
        drop(progress);
        let halted = saved.halted.map(millis);
        if let (true, Some(halted)) = (self.common.verbose, halted) {
            tell(&format!("\"{}\" stood still for {halted} ms", self.sandbox));
        }
        Ok(Reply::new(self.format(), || json!({"snapshot": saved.snapshot, "halted_ms": halted}), || format!("{}\n", saved.snapshot.name)))
    }
}
