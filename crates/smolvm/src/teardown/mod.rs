//! Takes back what sandboxes hold, many at once: the one path behind `stop`, `delete`, `cleanup`,
//! rollback and recovery.
//!
//! ```text
//!   Plan (pure) ──► wave after wave ─┬► a thread a lane: Effects (the seam) ──► outcomes ─┬─► look again ──► one transaction
//!                                    └►  …                                              ┘   (proof)        entries, rows
//! ```
//!
//! The caller holds the lock of every sandbox in the plan, and has recorded the intent (the state).
//! Killed anywhere in here, the next teardown finds every entry still recorded and its resource
//! either there or gone.

mod dirs;
mod effects;
mod elements;
mod execute;
mod processes;
mod proof;
mod taps;

pub(crate) use dirs::{remove_run_trash, sweep};
pub(crate) use effects::{HostEffects, Patience};
pub(crate) use execute::{Report, StepReport, execute, settle, settle_now};
