//! `image`: what sandboxes are made from.

mod debootstrap;
mod history;
mod import;
mod inspect;
mod list;
mod load;
mod prune;
mod pull;
mod rm;
mod save;
mod tag;

use clap::Subcommand;
use smolvm::image::ImageProgress;

pub(crate) use debootstrap::Debootstrap;
pub(crate) use history::History;
pub(crate) use import::Import;
pub(crate) use inspect::Inspect;
pub(crate) use list::List;
pub(crate) use load::Load;
pub(crate) use prune::Prune;
pub(crate) use pull::Pull;
pub(crate) use rm::Rm;
pub(crate) use save::Save;
pub(crate) use tag::Tag;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    Pull(Pull),
    #[command(visible_alias = "ls")]
    List(List),
    #[command(visible_alias = "info")]
    Inspect(Inspect),
    Tag(Tag),
    #[command(visible_alias = "delete")]
    Rm(Rm),
    Save(Save),
    Load(Load),
    Import(Import),
    Debootstrap(Debootstrap),
    History(History),
    Prune(Prune),
}

/// What a pull is at, in one line.
pub(super) fn line(event: &ImageProgress) -> String {
    let percent = event.fraction.map(|fraction| format!(" {:.0} %", fraction * 100.0)).unwrap_or_default();
    format!("{}{percent}", event.detail)
}
