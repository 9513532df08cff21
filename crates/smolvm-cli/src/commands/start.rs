//! `start`: boots a sandbox.

use clap::Args;
use serde_json::json;
use smolvm::start::{DEADLINE, StartOptions};
use smolvm::view::SandboxView;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;

use super::Verbal;
use crate::args::{Common, Origin};
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, tell};

/// Start a sandbox, and wait until it answers
#[derive(Debug, Args)]
#[command(after_help = "\
One that runs already is left alone. One that lost its hypervisor boots again on the same disk.

Example:
  smolvm start build --timeout 30s")]
pub(crate) struct Start {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    /// auto, kvm or tcg [default: as created]
    #[arg(long, value_name = "ACCEL")]
    accel: Option<AcceleratorRequest>,
    /// How long it may take [default: 60s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    origin: Origin,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Start {
    const PATH: &'static str = "sandbox.start";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Starting \"{}\"", self.name));
        let deadline = self.timeout.map_or(DEADLINE, Span::duration);
        let sandbox = vm.start(&self.name, StartOptions { accelerator: self.accel, from: self.origin.wanted(), deadline })?;
        drop(progress);
        if self.common.verbose {
            started(&sandbox);
        }
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}

/// What runs it, for those who want to know.
pub(super) fn started(sandbox: &SandboxView) {
    let accelerator = sandbox.accelerator.as_deref().unwrap_or("an unknown accelerator");
    let reason = sandbox.accelerator_reason.as_deref().unwrap_or("no reason recorded");
    tell(&format!("Sandbox \"{}\" runs with {accelerator}: {reason}", sandbox.id));
    if let Some(why) = &sandbox.started_from_reason {
        tell(&format!("It was started from {}: {why}", sandbox.started_from));
    }
}
