//! Signals by number, to a group or to everything.
#![allow(unsafe_code, reason = "the safe wrappers take only signals they have a name for, and no pid -1")]

use rustix::io::Errno;
use rustix::process::Pid;

/// Whether a number from the wire is a signal of Linux.
pub(crate) fn is_signal(number: i32) -> bool {
    (1..=64).contains(&number)
}

/// Sends `signal` to the process group that `leader` leads. A group that is gone is no error.
pub(crate) fn group(leader: Pid, signal: i32) {
    // SAFETY: kill takes no pointers. A pid of this type is positive, so the target is one group.
    let _ = unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) };
}

/// Sends `signal` to one process, which was not waited for yet: so the number is still its own.
pub(crate) fn process(pid: Pid, signal: i32) {
    // SAFETY: kill takes no pointers. A pid of this type is positive, so the target is one process.
    let _ = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
}

/// Sends `signal` to every process of the guest but pid 1. Refused unless this *is* pid 1:
/// anywhere else it would reach the whole machine.
pub(crate) fn everything(signal: i32) -> Result<(), Errno> {
    if !rustix::process::getpid().is_init() {
        return Err(Errno::PERM);
    }
    // SAFETY: kill takes no pointers; pid 1 itself is not among the targets of -1.
    let _ = unsafe { libc::kill(-1, signal) };
    Ok(())
}
