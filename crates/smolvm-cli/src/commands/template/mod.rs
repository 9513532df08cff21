//! `template`: the booted machines from which sandboxes are forked.

mod build;
mod delete;
mod list;

use clap::Subcommand;

pub(crate) use build::Build;
pub(crate) use delete::Delete;
pub(crate) use list::List;

/// What can be done with templates.
#[derive(Debug, Subcommand)]
pub(crate) enum TemplateVerb {
    #[command(visible_alias = "ls")]
    List(List),
    Build(Build),
    #[command(visible_alias = "rm")]
    Delete(Delete),
}
