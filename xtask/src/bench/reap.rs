//! The end of a process, with the memory it had at most.

use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// How often is looked: what a process of a second or two adds in its last moment is little, and looking costs it little.
const PAUSE: Duration = Duration::from_millis(2);

/// How a process ended.
#[derive(Debug)]
pub(super) struct Reaped {
    pub(super) status: ExitStatus,
    /// Resident memory at its largest, as the kernel last told before the end. The resource usage at its end
    /// would also count what this process had when it started the other.
    pub(super) peak_mib: f64,
}

/// Waits for a child's end.
pub(super) fn reap(mut child: Child) -> Result<Reaped> {
    let mut peak_mib = 0.0;
    loop {
        if let Some(mib) = high_water(child.id()) {
            peak_mib = mib;
        }
        if let Some(status) = child.try_wait().context("cannot wait for the process")? {
            return Ok(Reaped { status, peak_mib });
        }
        thread::sleep(PAUSE);
    }
}

/// `VmHWM` in MiB; a process that has ended has none any more.
fn high_water(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(f64::from(kib.trim().parse::<u32>().ok()?) / 1024.0)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts a process of its own")]
mod tests {
    use super::*;

    #[test]
    fn status_and_memory_are_told() {
        let child = std::process::Command::new("sh").args(["-c", "sleep 0.2; exit 3"]).spawn().unwrap();
        let reaped = reap(child).unwrap();
        assert_eq!(reaped.status.code(), Some(3));
        assert!(reaped.peak_mib > 0.1 && reaped.peak_mib < 64.0, "{reaped:?}");
    }
}
