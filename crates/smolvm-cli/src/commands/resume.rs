//! `resume`: lets a paused sandbox go on.

use clap::Args;
use serde_json::json;
use smolvm_model::name::SandboxId;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Let a paused sandbox go on
#[derive(Debug, Args)]
#[command(after_help = "\
Its clock is set again first. One that runs is left alone.

Example:
  smolvm resume build")]
pub(crate) struct Resume {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Resume {
    const PATH: &'static str = "sandbox.resume";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let sandbox = context.open_unsettled()?.resume(&self.name)?;
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}
