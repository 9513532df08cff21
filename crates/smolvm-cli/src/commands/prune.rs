//! `prune`: removes what is sound and nobody needs.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use smolvm::prune::{IDLE, Mode, PruneReport, PruneRequest};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::quantity::{Span, display_bytes};

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply, note};

/// Remove what nobody needs: old templates, images without a name, downloads, leftovers
#[derive(Debug, Args)]
#[command(after_help = "\
All of it is made again when it is needed. Sandboxes and snapshots stay, and so does what they need;
to remove sandboxes, use: smolvm cleanup

Examples:
  smolvm prune --dry-run
  smolvm prune --until 24h --keep 2
  smolvm prune --all")]
pub(crate) struct Prune {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// What must not have been used for so long: 30s, 12h, 7d [default: 7d]
    #[arg(long, value_name = "DURATION", conflicts_with = "all")]
    until: Option<Span>,
    /// However lately it was used
    #[arg(short, long)]
    all: bool,
    /// Keep so many templates, those that were used last
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep: usize,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Prune {
    const PATH: &'static str = "prune";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let idle = if self.all { Duration::ZERO } else { self.until.map_or(IDLE, Span::duration) };
        let mode = if self.dry_run { Mode::Say } else { Mode::Remove };
        let report = context.open_unsettled()?.prune(PruneRequest { idle, keep: self.keep, mode })?;
        let (bytes, problem) = outcome(&report, mode, self.common);
        let data = || json!({"removed": report.removed, "failed": report.failed, "freed_bytes": bytes, "dry_run": self.dry_run});
        Ok(Reply::new(self.format(), data, || told(&report)).but(problem))
    }
}

/// What came free, or would, which is said; and what stood in the way.
pub(super) fn outcome(report: &PruneReport, mode: Mode, common: Common) -> (u64, Option<Problem>) {
    let (bytes, would) = match mode {
        Mode::Say => (report.removed.iter().map(|one| one.bytes).sum(), "would be"),
        Mode::Remove => (report.freed_bytes, "were"),
    };
    if !common.quiet && !common.json {
        note(&format!("{} of disk {would} freed", display_bytes(bytes)));
    }
    let problem = report.failed.first().map(|first| {
        Problem::new(
            ErrorCode::PartialFailure,
            format!("{} of what may go stays: {} {}: {}", report.failed.len(), first.part, first.name, first.error),
        )
        .hint("try again when no other smolvm is at work")
    });
    (bytes, problem)
}

/// What went, as a table.
pub(super) fn told(report: &PruneReport) -> String {
    if report.removed.is_empty() {
        return String::new();
    }
    let mut table = Columns::new(&["PART", "NAME", "SIZE", "WHY"]);
    for one in &report.removed {
        let name = one.name.chars().take(32).collect();
        table.row(&[one.part.to_owned(), name, display_bytes(one.bytes).to_string(), one.why.clone()]);
    }
    table.text()
}
