//! `template delete`.

use clap::Args;
use serde_json::json;
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply, tell};

/// Delete templates; sandboxes that were forked from them run on
#[derive(Debug, Args)]
#[command(after_help = "\
The next start that needs one makes it again.

Examples:
  smolvm template delete 3f9a
  smolvm template delete --all")]
pub(crate) struct Delete {
    /// Keys, or as much of each as tells it from the others
    #[arg(value_name = "KEY", required_unless_present = "all")]
    keys: Vec<String>,
    /// All of them
    #[arg(long, conflicts_with = "keys")]
    all: bool,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Delete {
    const PATH: &'static str = "template.delete";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let deletion = if self.all { vm.delete_all_templates()? } else { vm.delete_templates(&self.keys)? };
        if self.common.verbose {
            tell(&format!("{} of disk were freed", display_bytes(deletion.freed_bytes)));
        }
        let data = || json!({"deleted": deletion.deleted, "freed_bytes": deletion.freed_bytes});
        let text = || deletion.deleted.iter().fold(String::new(), |text, key| text + key + "\n");
        Ok(Reply::new(self.format(), data, text))
    }
}
