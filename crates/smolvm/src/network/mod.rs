//! A sandbox's place in the network: reserved by `create`, raised by `start`, and what all share.

mod look;
mod raise;
mod reserve;
mod shared;

pub(crate) use look::Look;
pub(crate) use raise::{admit, promised, raise};
pub(crate) use reserve::{Reservation, reserve};
pub(crate) use shared::{SharedOutcome, release_shared, unreleased};
