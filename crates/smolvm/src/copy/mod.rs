//! Copies a sandbox as it runs, for `fork` and for snapshots.
//!
//! ```text
//!   take      ask where ─► copy ahead ─► freeze ─► read its own pages, devices ─► thaw ─► write them, and what is behind them
//!   guest     runs ────────────────────► at rest, halted ───────────────────────► runs, with the right time
//!
//!   make      create with the disk's files ─► start with the memory, once it is whole     what failed is taken back
//! ```
//!
//! A copy goes on in the surroundings of what it was taken from (`surroundings`), or not at all.

mod disk;
mod make;
mod memory;
mod surroundings;
mod take;

pub(crate) use disk::lay_over_shared;
pub(crate) use make::REMOVAL_WAIT;
pub(crate) use memory::{Order, Whole};
pub(crate) use surroundings::accelerator_of;
pub(crate) use take::{CopyWanted, Sync};
