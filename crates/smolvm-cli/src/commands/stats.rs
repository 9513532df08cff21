//! `stats`: what running sandboxes use.

use clap::Args;
use serde_json::json;
use smolvm::stats::StatsView;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::display_bytes;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// Show what running sandboxes use: memory, processor time, disk
#[derive(Debug, Args)]
#[command(after_help = "\
Without names, all that run. OWN is memory that nobody else has. SHARED is backed by files, such as the template that a sandbox was
forked from: the same pages stand in the line of each fork, and the kernel may drop them.

Examples:
  smolvm stats
  smolvm stats build --json")]
pub(crate) struct Stats {
    /// The sandboxes
    #[arg(value_name = "NAME")]
    names: Vec<SandboxId>,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Stats {
    const PATH: &'static str = "sandbox.stats";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let stats = context.open_unsettled()?.stats(&self.names)?;
        let ids = || stats.iter().fold(String::new(), |text, s| text + &s.id + "\n");
        let text = || if self.common.quiet { ids() } else { table(&stats) };
        Ok(Reply::new(self.format(), || json!({"sandboxes": stats}), text))
    }
}

fn table(stats: &[StatsView]) -> String {
    let mut table = Columns::new(&["ID", "STATE", "OWN", "SHARED", "CPU", "DISK"]);
    for s in stats {
        table.row(&[
            s.id.clone(),
            s.state.to_owned(),
            display_bytes(s.own_bytes).to_string(),
            display_bytes(s.shared_bytes).to_string(),
            format!("{}.{:02} s", s.cpu_ms / 1000, s.cpu_ms % 1000 / 10),
            display_bytes(s.disk_used_bytes).to_string(),
        ]);
    }
    table.text()
}
