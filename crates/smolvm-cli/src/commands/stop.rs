//! `stop`: shuts a sandbox down in order.

use clap::Args;
use serde_json::json;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, tell};

/// Stop a sandbox in order; its disk stays
#[derive(Debug, Args)]
#[command(after_help = "\
What its guest wrote before is on its disk after the next start.

Example:
  smolvm stop build")]
pub(crate) struct Stop {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    /// How long the guest may take before it is ended [default: 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Stop {
    const PATH: &'static str = "sandbox.stop";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let progress = Progress::of(self.format(), self.common.quiet, format!("Stopping \"{}\"", self.name));
        let deadline = self.timeout.map_or(smolvm::stop::DEADLINE, Span::duration);
        let sandbox = vm.stop(&self.name, deadline)?;
        drop(progress);
        if self.common.verbose {
            tell(&format!("Sandbox \"{0}\" is stopped. Its disk is kept: smolvm start {0}", sandbox.id));
        }
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}
