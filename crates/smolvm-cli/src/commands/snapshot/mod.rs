//! `snapshot`: sandboxes as they were at one moment.

mod create;
mod delete;
mod inspect;
mod list;
mod restore;

use clap::Subcommand;

pub(crate) use create::Create;
pub(crate) use delete::Delete;
pub(crate) use inspect::Inspect;
pub(crate) use list::List;
pub(crate) use restore::Restore;

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotVerb {
    Create(Create),
    #[command(visible_alias = "ls")]
    List(List),
    #[command(visible_alias = "info")]
    Inspect(Inspect),
    Restore(Restore),
    #[command(visible_alias = "rm")]
    Delete(Delete),
}
