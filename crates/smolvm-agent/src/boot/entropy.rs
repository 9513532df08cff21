//! Clock and randomness: what a fork must not share with its template.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::time::{ClockId, Timespec, clock_settime};
use smolvm_proto::{Entropy, UnixTime};

use super::failed;
use crate::serve::BootFailure;

/// What the kernel's generator needs to count as seeded.
const LEAST: usize = 32;

/// Sets the time of day.
pub(super) fn set_clock(time: UnixTime) -> Result<(), BootFailure> {
    let value = Timespec { tv_sec: i64::try_from(time.secs).unwrap_or(i64::MAX), tv_nsec: i64::from(time.nanos) };
    clock_settime(ClockId::Realtime, value).map_err(failed("clock", "set"))
}

/// Opens the kernel's generator. Early: a fork that finds it open has no path to walk before it is seeded.
pub(super) fn generator() -> Result<OwnedFd, BootFailure> {
    open("/dev/random", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("entropy", "/dev/random"))
}

/// Credits the seed and reseeds; says how many bytes were credited.
pub(super) fn seed(generator: impl AsFd, entropy: &Entropy) -> Result<u32, BootFailure> {
    let bytes = entropy.as_bytes();
    if bytes.len() < LEAST {
        return Err(BootFailure { step: "entropy", message: format!("{} bytes were given, and {LEAST} is the least", bytes.len()) });
    }
    crate::sys::random::credit_and_reseed(generator.as_fd(), bytes).map_err(failed("entropy", "credit"))?;
    Ok(u32::try_from(bytes.len().min(crate::sys::random::MAX)).unwrap_or(0))
}
