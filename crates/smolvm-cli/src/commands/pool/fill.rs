//! `pool fill`.

use clap::Args;
use serde_json::json;
use smolvm_model::name::SandboxId;

use super::pool;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note, tell};

/// Bring the pool to its size now, instead of after the next sandbox that is taken
#[derive(Debug, Args)]
#[command(after_help = "\
Prints the names of those that were made. Those that are no longer wanted are removed.

Examples:
  smolvm config set pool.debian 2 && smolvm pool fill
  smolvm --set pool.debian=0 pool fill")]
pub(crate) struct Fill {
    #[command(flatten)]
    common: Common,
}

impl Verbal for Fill {
    const PATH: &'static str = "pool.fill";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let config = context.config()?;
        let (vm, wanted) = (context.open_with(&config)?, pool(&config));
        let progress = Progress::of(self.format(), self.common.quiet, "Filling the pool");
        let filled = vm.fill_pool(&wanted)?;
        drop(progress);
        if wanted.is_empty() && filled.removed.is_empty() && !self.common.quiet && !self.common.json {
            note("nothing shall wait. Settle how many: smolvm config set pool.debian 2");
        }
        if self.common.verbose && !filled.removed.is_empty() {
            tell(&format!("{} that were no longer wanted are gone", filled.removed.len()));
        }
        let names = |ids: &[SandboxId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        let data = || json!({"made": names(&filled.made), "removed": names(&filled.removed)});
        Ok(Reply::new(self.format(), data, || filled.made.iter().fold(String::new(), |text, id| text + id.as_str() + "\n")))
    }
}
