//! The pool: sandboxes that were started for nobody and stand still until somebody takes one.
//!
//! ```text
//!   run, create --start ──► take ──► it goes on, under the name it was made with      milliseconds
//!           │ none there: a fork of the template, as ever                               hundreds of them
//!           └──► refill (a process of its own, which ends when the pool is full) ──► fill: create, start, pause, pool
//! ```
//!
//! A sandbox of the pool is a sandbox like any other: it has its name, its address and its own seed from its first start, so
//! nothing of it is renamed when it is taken, and what is killed leaves nothing of a new kind. Only who lets smolvm choose
//! the name can have one.
//!
//! Invariants: one process at a time fills; whoever takes one holds its lock and finds it still waiting; a pool that fails
//! costs a fork and never a start.

mod fill;
mod list;
mod refill;
mod take;

use smolvm_host::image::template::DiskState;
use smolvm_model::config::PoolSize;
use smolvm_model::spec::Spec;

use crate::create::CreateRequest;
use crate::error::Error;
use crate::installation::Smolvm;

pub use fill::{Filled, PoolHeld};
pub use list::PoolView;
pub use refill::refill;

/// So many sandboxes of one kind shall wait.
#[derive(Debug, Clone)]
pub struct PoolWanted {
    /// What a sandbox is that nothing else is said of.
    pub request: CreateRequest,
    /// How many.
    pub size: PoolSize,
}

impl Smolvm {
    /// What tells whether a sandbox that waits is one that was asked for: the key of the template of such a machine, and its network.
    fn pool_key(&self, spec: &Spec) -> Result<String, Error> {
        let key = self.facts(spec, None, DiskState::Fresh)?.key();
        // Two networks may have the same device.
        Ok(format!("{key} {}", spec.network))
    }
}
