//! `df`: where the disk and the memory went.

use clap::Args;
use serde_json::json;
use smolvm::df::Usage;
use smolvm_model::quantity::display_bytes;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// Show where the disk and the memory went
#[derive(Debug, Args)]
#[command(after_help = "\
The sizes are blocks on the disk, as `du` counts them: holes and shared pages take none.
What is under PRUNABLE goes with: smolvm prune

Example:
  smolvm df")]
pub(crate) struct Df {
    #[command(flatten)]
    common: Common,
}

impl Verbal for Df {
    const PATH: &'static str = "df";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let usage = context.open_unsettled()?.disk_usage()?;
        Ok(Reply::new(self.format(), || json!(usage), || table(&usage)))
    }
}

fn table(usage: &Usage) -> String {
    let mut table = Columns::new(&["PART", "COUNT", "SIZE", "PRUNABLE"]);
    for part in &usage.parts {
        let (size, prunable) = (display_bytes(part.bytes).to_string(), display_bytes(part.prunable_bytes).to_string());
        table.row(&[part.part.to_owned(), part.count.to_string(), size, prunable]);
    }
    let (size, prunable) = (display_bytes(usage.total_bytes).to_string(), display_bytes(usage.prunable_bytes).to_string());
    table.row(&["all".to_owned(), String::new(), size, prunable]);
    let pooled = if usage.pooled == 0 { String::new() } else { format!(" ({} of them in the pool)", usage.pooled) };
    table.text() + &format!("\n{} running{pooled}, {} of memory their own\n", usage.running, display_bytes(usage.own_memory_bytes))
}
