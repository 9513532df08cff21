//! A release: points are passed and nothing happens.

use std::io;
use std::panic::Location;
use std::path::Path;

use smolvm_model::effect::{Commit, Effect, Point};

use super::ArmError;

/// A release cannot be armed: the order is not even read.
pub fn arm(_order: Option<&str>, _trace: Option<&Path>) -> Result<(), ArmError> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the one with debug assertions fails")]
pub(super) fn reach(_point: Point, _at: &Location<'_>) -> io::Result<()> {
    Ok(())
}

pub(super) fn again(_effect: Effect) -> bool {
    false
}

pub(super) fn trusts_pids() -> bool {
    false
}

pub(super) fn forgets(_commit: Commit) -> bool {
    false
}
