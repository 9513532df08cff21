//! `config unset`.

use clap::Args;
use smolvm::config::wrong;
use smolvm_model::config::Key;

use super::written::Written;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply, note};

/// Take something out of the configuration file, so that the default holds
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm config unset sandbox.memory")]
pub(crate) struct Unset {
    /// The setting; `smolvm config show` lists them
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Unset {
    const PATH: &'static str = "config.unset";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let key: Key = self.key.parse().map_err(wrong)?;
        let path = context.config_file()?;
        let was_there = context.open_unsettled()?.unset_config(&path, &key)?;
        if !was_there && !self.common.quiet && !self.common.json {
            note("it was not there");
        }
        Ok(Written::look(context, &key, None).reply(self.common, &path))
    }
}
