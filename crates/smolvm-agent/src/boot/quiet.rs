//! A kernel that has nothing left to do.
//!
//! What was closed and who has ended is freed some grace periods later; a machine that is parked before that gives all of it to each of its
//! forks to do first. The kernel counts how often it saw to such things; while that number stands still, nothing is put off.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Longer than a processor with something put off goes without looking at it: it does so at every tick, of which there are 250 a second.
const LOOK: Duration = Duration::from_millis(25);
/// A guest that is never quiet is parked all the same: its forks are slower to begin, and right.
const MOST: Duration = Duration::from_millis(500);

/// Where the kernel counts. It stays open, for closing it is put off, too.
pub(super) struct Quiet {
    counts: File,
}

/// Tells the kernel to bring its counts of pages together once a day instead of every second: a processor does so whenever it has nothing to do,
/// and one that was parked for longer than that would begin with it. What cannot be told costs that moment.
pub(super) fn count_rarely() {
    if let Err(e) = std::fs::write("/proc/sys/vm/stat_interval", "86400") {
        crate::log::line(format_args!("forks will be slower to begin: {e}"));
    }
}

impl Quiet {
    pub(super) fn open() -> std::io::Result<Self> {
        File::open("/proc/softirqs").map(|counts| Self { counts })
    }

    /// Waits until nothing is put off.
    pub(super) fn wait(&self) {
        let start = Instant::now();
        let mut before = self.grace();
        while start.elapsed() < MOST {
            std::thread::sleep(LOOK);
            let now = self.grace();
            if now == before {
                return;
            }
            before = now;
        }
    }

    /// What is counted of grace periods, on all processors.
    fn grace(&self) -> Option<String> {
        let mut text = [0; 8192];
        let len = self.counts.read_at(&mut text, 0).ok()?;
        grace_of(&String::from_utf8_lossy(&text[..len])).map(str::to_owned)
    }
}

fn grace_of(counts: &str) -> Option<&str> {
    counts.lines().map(str::trim_start).find(|line| line.starts_with("RCU:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_periods_are_counted_in_a_line_of_their_own() {
        let counts = "                    CPU0       CPU1\n       SCHED:          1          2\n         RCU:         30          4\n";
        assert_eq!(grace_of(counts), Some("RCU:         30          4"));
        assert_eq!(grace_of("CPU0\n"), None);
        assert!(Quiet::open().unwrap().grace().is_some(), "as on any Linux host");
    }
}
