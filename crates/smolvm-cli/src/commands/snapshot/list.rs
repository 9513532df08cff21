//! `snapshot list`.

use clap::Args;
use serde_json::json;
use smolvm::snapshot::SnapshotView;
use smolvm_model::quantity::display_bytes;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::list::age;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply};

/// List snapshots, the newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  smolvm snapshot list")]
pub(crate) struct List {
    #[command(flatten)]
    common: Common,
}

impl Verbal for List {
    const PATH: &'static str = "snapshot.list";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let snapshots = context.open_unsettled()?.snapshots()?;
        let text = || if self.common.quiet { names(&snapshots) } else { table(&snapshots) };
        Ok(Reply::new(self.format(), || json!({"snapshots": snapshots}), text))
    }
}

fn names(snapshots: &[SnapshotView]) -> String {
    snapshots.iter().fold(String::new(), |text, snapshot| text + &snapshot.name + "\n")
}

fn table(snapshots: &[SnapshotView]) -> String {
    let mut table = Columns::new(&["NAME", "OF", "KIND", "IMAGE", "CPUS", "MEMORY", "NETWORK", "SIZE", "AGE"]);
    for s in snapshots {
        table.row(&[
            s.name.clone(),
            s.sandbox.clone(),
            s.kind.to_owned(),
            s.image.clone(),
            s.cpus.to_string(),
            display_bytes(u64::from(s.memory_mib) << 20).to_string(),
            s.network.clone(),
            display_bytes(s.size_bytes).to_string(),
            age(&s.created_at),
        ]);
    }
    table.text()
}
