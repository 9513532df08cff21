//! The gate through which everything goes that outlives the process.
//!
//! ```text
//!   perform(Effect::Tap, |permit| tap::make(permit, …))
//!      │                    └─ functions that change the host ask for a permit, and only the gate gives one out
//!      ├─ passes the point before:tap
//!      └─ passes the point after:tap        (Store::write does the same around every Commit)
//! ```
//!
//! In a build with debug assertions a point can be armed by a test ([`arm`]): it then ends the process
//! with SIGKILL, fails as the host would, lets the effect happen twice, or has a transaction forgotten.
//! A release has none of that: passing a point is nothing there.

#[cfg(debug_assertions)]
mod armed;
#[cfg(not(debug_assertions))]
#[path = "unarmed.rs"]
mod armed;

use std::io;
use std::panic::Location;

use smolvm_model::effect::{Act, Commit, Effect, Point, Side};

pub use armed::arm;

/// A test's order that cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// It is no order.
    #[error("{text:?} is no order for a test")]
    Order {
        /// What was said.
        text: String,
    },
    /// The trace cannot be written.
    #[error("the trace cannot be opened")]
    Trace(#[source] io::Error),
}

/// Leave to change the host in one way; made by [`perform`] only.
#[derive(Debug)]
pub struct Permit {
    effect: Effect,
}

impl Permit {
    /// What it is for.
    pub fn effect(&self) -> Effect {
        self.effect
    }
}

/// A failure that a test asked for, in place of the host's.
#[derive(Debug, thiserror::Error)]
#[error("{point}: {source}")]
pub struct Fault {
    /// Where.
    pub point: Point,
    /// What the kernel would have said.
    pub source: io::Error,
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        fault.source
    }
}

/// Changes the host: passes the points before and after it, and gives out the permit in between.
///
/// # Errors
/// Those of `act`; and in a test's hands any that the host could have given.
#[track_caller]
pub fn perform<T, E: From<Fault>>(effect: Effect, mut act: impl FnMut(&Permit) -> Result<T, E>) -> Result<T, E> {
    let permit = Permit { effect };
    reach(Act::Effect(effect), Side::Before)?;
    let first = act(&permit)?;
    let value = if armed::again(effect) {
        // What the first one holds may be what the second one needs.
        drop(first);
        act(&permit)?
    } else {
        first
    };
    reach(Act::Effect(effect), Side::After)?;
    Ok(value)
}

/// The same for an effect that cannot be done twice by the same hands: it uses up what it was given.
///
/// # Errors
/// As [`perform`].
#[track_caller]
pub fn perform_once<T, E: From<Fault>>(effect: Effect, act: impl FnOnce(&Permit) -> Result<T, E>) -> Result<T, E> {
    let permit = Permit { effect };
    reach(Act::Effect(effect), Side::Before)?;
    let value = act(&permit)?;
    reach(Act::Effect(effect), Side::After)?;
    Ok(value)
}

/// The same for who has no error to turn a [`Fault`] into: a test, or a tool that drives one effect alone.
///
/// # Errors
/// In a test's hands only.
#[track_caller]
pub fn permitted<T>(effect: Effect, act: impl FnOnce(&Permit) -> T) -> Result<T, Fault> {
    perform_once(effect, |permit| Ok(act(permit)))
}

/// Passes the point on one side of a transaction.
#[track_caller]
pub(crate) fn reach_commit(commit: Commit, side: Side) -> Result<(), Fault> {
    reach(Act::Commit(commit), side)
}

/// Whether a test wants this transaction to be forgotten: a build that is broken on purpose.
pub(crate) fn is_forgotten(commit: Commit) -> bool {
    armed::forgets(commit)
}

/// Whether a test wants a bare number to be enough: another build that is broken on purpose.
pub(crate) fn trusts_pids() -> bool {
    armed::trusts_pids()
}

#[track_caller]
fn reach(act: Act, side: Side) -> Result<(), Fault> {
    let point = Point { act, side };
    armed::reach(point, Location::caller()).map_err(|source| Fault { point, source })
}
