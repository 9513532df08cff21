//! The end of a process, with the memory it had at most.
#![allow(unsafe_code, reason = "wait4(2), which the safe wrappers leave out")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use anyhow::{Context, Result};

/// How a process ended.
#[derive(Debug)]
pub(super) struct Reaped {
    pub(super) status: ExitStatus,
    /// Resident memory at its largest, of it or of a process it waited for. Never below what this process had when it
    /// started the other: the kernel counts that in.
    pub(super) peak_mib: f64,
}

/// Waits for a child's end.
#[expect(clippy::needless_pass_by_value, reason = "nobody can wait for it again")]
pub(super) fn reap(child: Child) -> Result<Reaped> {
    let pid = i32::try_from(child.id()).context("a pid")?;
    let mut status = 0;
    // SAFETY: rusage is a struct of integers, for which all zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of this frame, and the pid is a child's that nobody else reaps.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if waited == pid {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for the process");
        }
    }
    // In KiB, and below 2^52 of them.
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let peak_mib = usage.ru_maxrss as f64 / 1024.0;
    Ok(Reaped { status: ExitStatus::from_raw(status), peak_mib })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts a process of its own")]
mod tests {
    use super::*;

    #[test]
    fn status_and_memory_are_told() {
        let child = std::process::Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        let reaped = reap(child).unwrap();
        assert_eq!(reaped.status.code(), Some(3));
        assert!(reaped.peak_mib > 0.1 && reaped.peak_mib < 1024.0, "{reaped:?}");
    }
}
