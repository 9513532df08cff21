//! What a process uses: memory that is its own, memory that it shares, processor time.

use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

use super::identity;

/// Both files are a page at most.
const CAP: u64 = 64 << 10;

/// What a process uses at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that nobody else has: what it wrote, in bytes. It is given back only when it ends.
    pub own_bytes: u64,
    /// Memory backed by files, in bytes: shared with whoever maps or reads the same, and the kernel's to drop.
    pub shared_bytes: u64,
    /// Processor time since it began, in milliseconds.
    pub cpu_ms: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            own_bytes: self.own_bytes.saturating_add(other.own_bytes),
            shared_bytes: self.shared_bytes.saturating_add(other.shared_bytes),
            cpu_ms: self.cpu_ms.saturating_add(other.cpu_ms),
        }
    }
}

/// Looks at a process; `None` when there is no such process any more.
pub fn look(proc: &Path, pid: u32) -> Result<Option<Usage>> {
    let dir = proc.join(pid.to_string());
    let (memory, stat) = match (text(&dir.join("smaps_rollup")), text(&dir.join("stat"))) {
        (Ok(memory), Ok(stat)) => (memory, stat),
        (Err(e), _) | (_, Err(e)) if is_gone(&e) => return Ok(None),
        (Err(e), _) | (_, Err(e)) => return Err(e),
    };
    // A process without memory has ended.
    if memory.is_empty() {
        return Ok(None);
    }
    let odd = || Error::from(ErrorKind::InvalidData);
    let kib = |name| memory_field(&memory, name).ok_or_else(odd);
    let own = kib("Anonymous")?.saturating_add(kib("Swap")?);
    let shared = kib("Rss")?.saturating_sub(kib("Anonymous")?);
    let ticks = identity::processor_ticks(&stat).ok_or_else(odd)?;
    Ok(Some(Usage {
        own_bytes: own.saturating_mul(1024),
        shared_bytes: shared.saturating_mul(1024),
        cpu_ms: ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1),
    }))
}

fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(CAP).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Kibibytes of a line like `Rss:   1234 kB`.
fn memory_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_and_what_it_writes_is_its_own() {
        let look = || super::look(Path::new("/proc"), std::process::id()).unwrap().unwrap();
        let before = look();
        assert!(before.shared_bytes > 0);
        let written = vec![1_u8; 64 << 20];
        let after = look();
        assert!(after.own_bytes >= before.own_bytes + (48 << 20), "{before:?} {after:?} {}", written.len());
        assert!(after.cpu_ms >= before.cpu_ms);
        assert_eq!(super::look(Path::new("/proc"), u32::MAX).unwrap(), None);
    }

    #[test]
    fn lines_of_another_form_are_no_number() {
        assert_eq!(memory_field("Rss:  12 kB\nAnonymous: 7 kB", "Anonymous"), Some(7));
        for bad in ["", "Rss: 12", "Rss: x kB", "RssX: 1 kB"] {
            assert_eq!(memory_field(bad, "Rss"), None, "{bad}");
        }
    }
}
