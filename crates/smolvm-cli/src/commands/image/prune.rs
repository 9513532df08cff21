//! `image prune`.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use smolvm::image::{ImagePruneRequest, Scope};
use smolvm::prune::Mode;
use smolvm_model::quantity::Span;

use crate::args::Common;
use crate::commands::Verbal;
use crate::commands::prune::{outcome, told};
use crate::context::Context;
use crate::output::{Format, Problem, Reply};

/// Remove images that nobody needs
#[derive(Debug, Args)]
#[command(after_help = "\
Without --all those that have no name any more. Images that a sandbox or a snapshot needs stay, and so do
those that smolvm makes itself. Layers go with the last image that has them.

Examples:
  smolvm image prune
  smolvm image prune --all --until 7d --dry-run")]
pub(crate) struct Prune {
    /// Those that have a name, too, if no sandbox and no snapshot needs them; their templates go with them
    #[arg(short, long)]
    all: bool,
    /// Only those that are here for so long
    #[arg(long, value_name = "DURATION")]
    until: Option<Span>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Prune {
    const PATH: &'static str = "image.prune";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let request = ImagePruneRequest {
            scope: if self.all { Scope::Unused } else { Scope::Unnamed },
            older_than: self.until.map_or(Duration::ZERO, Span::duration),
            mode: if self.dry_run { Mode::Say } else { Mode::Remove },
        };
        let report = context.open_unsettled()?.prune_images(request)?;
        let (bytes, problem) = outcome(&report, request.mode, self.common);
        let data = || json!({"removed": report.removed, "failed": report.failed, "freed_bytes": bytes, "dry_run": self.dry_run});
        Ok(Reply::new(self.format(), data, || told(&report)).but(problem))
    }
}
