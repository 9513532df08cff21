//! `pool list`.

use clap::Args;
use serde_json::json;
use smolvm::pool::PoolView;

use super::pool;
use crate::args::Common;
use crate::commands::Verbal;
use crate::context::Context;
use crate::output::{Columns, Format, Problem, Reply, tell};

/// Show what waits, beside what is wanted
#[derive(Debug, Args)]
#[command(after_help = "\
How many shall wait is settled per image: smolvm config set pool.debian 2

Example:
  smolvm pool list")]
pub(crate) struct List {
    #[command(flatten)]
    common: Common,
}

impl Verbal for List {
    const PATH: &'static str = "pool.list";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let config = context.config()?;
        let vm = context.open_with(&config)?;
        let (pools, failure) = (vm.pools(&pool(&config))?, vm.pool_complaint());
        if let Some(failure) = failure.as_ref().filter(|_| !self.common.quiet && !self.common.json) {
            tell(&format!("the pool was not filled the last time: {failure}"));
        }
        let text = || if self.common.quiet { ids(&pools) } else { table(&pools) };
        Ok(Reply::new(self.format(), || json!({"pools": pools, "failure": failure}), text))
    }
}

fn ids(pools: &[PoolView]) -> String {
    pools.iter().flat_map(|pool| &pool.ids).fold(String::new(), |text, id| text + id + "\n")
}

fn table(pools: &[PoolView]) -> String {
    let mut table = Columns::new(&["IMAGE", "WANTED", "WAITING", "IDS"]);
    for pool in pools {
        table.row(&[pool.image.clone(), pool.size.to_string(), pool.waiting.to_string(), pool.ids.join(" ")]);
    }
    table.text()
}
