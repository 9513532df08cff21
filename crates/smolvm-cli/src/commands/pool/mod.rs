//! `pool`: sandboxes that were started before anybody asked for them.

mod fill;
mod list;

use clap::Subcommand;
use smolvm::pool::PoolWanted;
use smolvm_model::config::{Config, Key, Layer};
use smolvm_model::spec::ImageName;

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
///
/// Who settled how many wait settled what they are: what is said once on a line does not make another pool of the file's.
pub(crate) fn pool(config: &Config) -> Vec<PoolWanted> {
    let said = |image: &ImageName| config.settled(&Key::Pool(image.clone())).map_or(Layer::Line, |settled| settled.layer);
    let wanted = |(image, size)| {
        let lasting = config.up_to(said(&image));
        PoolWanted { request: configured(image, &lasting), size }
    };
    config.pools().into_iter().map(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_once_makes_no_other_pool() {
        let memory = |config: &Config| pool(config)[0].request.memory;
        let mut config = Config::default();
        config.set_pair("pool.debian=2", Layer::File).unwrap();
        config.set_pair("sandbox.memory=512M", Layer::File).unwrap();
        let lasting = memory(&config);
        config.set_pair("sandbox.memory=1G", Layer::Line).unwrap();
        assert_eq!(memory(&config), lasting);
        config.set_pair("pool.debian=2", Layer::Line).unwrap();
        assert_ne!(memory(&config), lasting);
    }
}
