//! `config get`: one value, for scripts.

use clap::Args;
use serde_json::json;
use smolvm::config::wrong;
use smolvm_model::config::Key;

use super::Row;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Print the value of one setting; nothing if it is not settled
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm config get sandbox.memory")]
pub(crate) struct Get {
    /// The setting; `smolvm config show` lists them
    #[arg(value_name = "KEY")]
    key: String,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Get {
    const PATH: &'static str = "config.get";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let key: Key = self.key.parse().map_err(wrong)?;
        let row = Row::of(&context.config()?, &key);
        let text = || row.value.as_ref().map_or(String::new(), |value| format!("{value}\n"));
        Ok(Reply::new(self.format(), || json!({"setting": row.json()}), text))
    }
}
