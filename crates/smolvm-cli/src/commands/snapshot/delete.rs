//! `snapshot delete`.

use clap::Args;
use serde_json::json;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Reply, tell};

/// Delete snapshots; sandboxes that were restored from them run on
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm snapshot delete build-1")]
pub(crate) struct Delete {
    /// The snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    names: Vec<SandboxId>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Delete {
    const PATH: &'static str = "snapshot.delete";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let deletion = context.open_unsettled()?.delete_snapshots(&self.names)?;
        if self.common.verbose {
            tell(&format!("{} of disk were freed", display_bytes(deletion.freed_bytes)));
        }
        let data = || json!({"deleted": deletion.deleted, "freed_bytes": deletion.freed_bytes});
        let text = || deletion.deleted.iter().fold(String::new(), |text, name| text + name + "\n");
        Ok(Reply::new(self.format(), data, text))
    }
}
