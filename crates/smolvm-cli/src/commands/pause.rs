//! `pause`: halts a sandbox where it stands.

use clap::Args;
use serde_json::json;
use smolvm_model::name::SandboxId;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Halt a sandbox where it stands
#[derive(Debug, Args)]
#[command(after_help = "\
Its memory is kept and it uses no processor; commands in it stand still, and new ones are refused.

Example:
  smolvm pause build")]
pub(crate) struct Pause {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Pause {
    const PATH: &'static str = "sandbox.pause";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let sandbox = context.open_unsettled()?.pause(&self.name)?;
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}
