//! The private readers of this crate, for the targets in `fuzz/`: see the same module in `smolvm-host`.

pub use crate::exec::fuzzing as exec;
pub use crate::monitor::fuzzing as monitor;
