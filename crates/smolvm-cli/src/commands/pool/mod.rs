//! `pool`: sandboxes that were started before anybody asked for them.

mod fill;
mod list;

use clap::Subcommand;
use smolvm::pool::PoolWanted;
use smolvm_model::config::Config;

pub(crate) use fill::Fill;
pub(crate) use list::List;

use crate::args::configured;

/// What can be done with the pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolVerb {
    #[command(visible_alias = "ls")]
    List(List),
    Fill(Fill),
}

/// The note of who went on without the pool.
pub(crate) fn no_use(e: &smolvm::Error) -> String {
    format!("the pool was of no use: {}", e.one_line())
}

/// What shall wait: of each image a sandbox as the configuration settles it.
pub(crate) fn pool(config: &Config) -> Vec<PoolWanted> {
    let wanted = |(image, size)| PoolWanted { request: configured(image, config), size };
    config.pools().into_iter().map(wanted).collect()
}
