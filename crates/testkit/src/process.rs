//! Processes as `/proc` shows them, and ending them safely.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One living process. A zombie is not one: it holds nothing any more.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number, as we see it.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// When it started, in clock ticks since boot; with `pid` its identity.
    pub start: u64,
    /// Its effective uid.
    pub uid: u32,
    /// Its words.
    pub argv: Vec<String>,
    /// What it executes, if that may be read.
    pub exe: Option<PathBuf>,
}

/// Every living process. One that ends while it is looked at is left out.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Process::read).collect()
}

impl Process {
    /// The process `pid`, if it lives.
    pub fn read(pid: i32) -> Option<Self> {
        let (state, parent, start) = stat(pid)?;
        if matches!(state, 'Z' | 'X' | 'x') {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let uid = uids.split_whitespace().nth(1)?.parse().ok()?;
        let argv = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let argv = argv.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>();
        let argv = argv.split_last().map_or_else(Vec::new, |(_, words)| words.to_vec());
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
        Some(Self { pid, parent, start, uid, argv, exe })
    }

    /// The name of the executable, without its directory.
    pub fn exe_name(&self) -> &str {
        self.exe.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether its words, environment, executable, directories, files or mappings lie beneath `directory`.
    pub fn touches(&self, directory: &Path) -> bool {
        let Some(text) = directory.to_str() else { return false };
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", self.pid)).is_ok_and(|target| target.starts_with(directory));
        self.argv.iter().any(|word| word.contains(text))
            || ["exe", "cwd", "root"].into_iter().any(link)
            || fs::read(format!("/proc/{}/environ", self.pid)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
            || self.files().iter().any(|file| file.starts_with(directory))
    }

    /// What its descriptors point to, as far as they are paths.
    pub fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|target| target.is_absolute()).collect()
    }

    /// The inode of one of its namespaces (`net`, `pid`, `mnt`, …).
    pub fn namespace(&self, kind: &str) -> Option<String> {
        let link = fs::read_link(format!("/proc/{}/ns/{kind}", self.pid)).ok()?;
        link.to_str().map(str::to_owned)
    }

    /// Whether this very process (not a successor with its number) still lives.
    pub fn lives(&self) -> bool {
        matches!(stat(self.pid), Some((state, _, start)) if start == self.start && !matches!(state, 'Z' | 'X' | 'x'))
    }

    /// Sends a signal to this very process: the descriptor is opened first and the identity judged after.
    pub fn signal(&self, signal: Signal) -> bool {
        let Some(fd) = pidfd(self.pid) else { return false };
        self.lives() && pidfd_send_signal(&fd, signal).is_ok()
    }

    /// One line for a report.
    pub fn describe(&self) -> String {
        let argv = self.argv.join(" ");
        let shown: String = argv.chars().take(200).collect();
        format!("pid {} parent {} uid {} {}: {shown}", self.pid, self.parent, self.uid, self.exe_name())
    }
}

/// A descriptor for the process that has the number now.
pub fn pidfd(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// State, parent and start time; the name in between may hold anything, so the last `)` counts.
fn stat(pid: i32) -> Option<(char, i32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.first()?.chars().next()?, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_a_process() {
        let own = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert_eq!(own.exe, std::env::current_exe().ok());
        assert!(all().iter().any(|process| process.pid == own.pid && process.start == own.start));
    }
}
