//! The few system calls that the safe wrappers leave out, one per file, each `unsafe` block argued.

pub(crate) mod clock;
mod entry;
pub(crate) mod inherited;
pub(crate) mod kill;
pub(crate) mod random;
pub(crate) mod signals;
pub(crate) mod spawn;
