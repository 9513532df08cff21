//! `config set`.

use clap::Args;
use smolvm::config::wrong;
use smolvm_model::config::Key;

use super::written::Written;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Settle something in the configuration file
#[derive(Debug, Args)]
#[command(after_help = "\
What else stands in the file stays as it is, comments too.

Examples:
  smolvm config set sandbox.memory 1G
  smolvm config set pool.debian 2")]
pub(crate) struct Set {
    /// The setting; `smolvm config show` lists them
    #[arg(value_name = "KEY")]
    key: String,
    /// Its value
    #[arg(value_name = "VALUE")]
    value: String,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Set {
    const PATH: &'static str = "config.set";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let key: Key = self.key.parse().map_err(wrong)?;
        let path = context.config_file()?;
        context.open_unsettled()?.set_config(&path, &key, &self.value)?;
        let written = Written::look(context, &key, Some(&self.value));
        written.note_if_overruled(self.common);
        Ok(written.reply(self.common, &path))
    }
}
