//! A log file that cannot fill the disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Size at which a log is renamed to `.1`, replacing the one before: at most twice this on disk.
const CAP: u64 = 1 << 20;
/// How much of the end is kept in memory for messages.
const TAIL: usize = 2048;

/// A log and the last of what went into it.
#[derive(Debug)]
pub(super) struct CappedLog {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    tail: Vec<u8>,
}

impl CappedLog {
    /// Opens it for appending; a log that cannot be opened is silently a log without a file, since no
    /// guest shall fail to run because its console could not be kept.
    pub(super) fn open(path: &Path) -> Self {
        let file = open(path).ok();
        let size = file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        Self { path: path.to_owned(), file, size, tail: Vec::new() }
    }

    /// Appends.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
        if self.size >= CAP {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            let _ = std::fs::rename(&self.path, old);
            self.file = open(&self.path).ok();
            self.size = 0;
        }
        if let Some(file) = &mut self.file {
            self.size += bytes.len() as u64;
            let _ = file.write_all(bytes);
        }
    }

    /// The last lines, made harmless for a terminal.
    pub(super) fn last_lines(&self, count: usize) -> String {
        let text: String =
            String::from_utf8_lossy(&self.tail).chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect();
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        lines[lines.len().saturating_sub(count)..].join("; ")
    }

    /// Whether the end of the log holds `needle`.
    pub(super) fn mentions(&self, needle: &str) -> bool {
        String::from_utf8_lossy(&self.tail).contains(needle)
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Reads once from a pipe of the hypervisor into its log; the end of the pipe closes it.
pub(super) fn drain(pipe: &mut Option<OwnedFd>, log: &mut CappedLog) {
    let Some(fd) = pipe else { return };
    let mut chunk = [0; 16 << 10];
    match rustix::io::read(&*fd, &mut chunk[..]) {
        Ok(0) => *pipe = None,
        Ok(count) => log.append(&chunk[..count]),
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(_) => *pipe = None,
    }
}

/// The same, if there is something: whoever else holds the other end must not keep the monitor waiting.
pub(super) fn drain_rest(pipe: &mut Option<OwnedFd>, log: &mut CappedLog) {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if pipe.as_ref().is_some_and(|fd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)) {
        drain(pipe, log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_stays_within_twice_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = CappedLog::open(&path);
        for _ in 0..320 {
            log.append(&[b'x'; 16 << 10]);
        }
        let total: u64 = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total <= 2 * CAP + (64 << 10) && total > CAP / 2, "{total}");
    }

    #[test]
    fn escapes_of_a_guest_do_not_reach_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = CappedLog::open(&dir.path().join("l"));
        log.append(b"one\r\n\x1b[2Jtwo\n\nthree\n");
        assert_eq!(log.last_lines(2), "[2Jtwo; three");
        assert!(log.mentions("three"));
    }
}
