//! The memory of another process.
//!
//! `/proc/PID/mem` means one process for good, but the kernel carries every page of it through one of its own. `process_vm_readv`
//! copies at once and takes half as long, but means a process by its number.
//!
//! Invariant: what was read by the number counts only if the process that was meant has not ended since: then nobody else can
//! have had its number.

#![allow(unsafe_code, reason = "process_vm_readv has no safe wrapper")]

use std::fs::File;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Where a number means the process that this one knows by it.
const OWN_PROC: &str = "/proc";

/// A process's memory, to be read.
#[derive(Debug)]
pub(super) struct Remote {
    file: File,
    /// Its number, and a handle that tells its end; nothing on a kernel that has none.
    numbered: Option<(Pid, OwnedFd)>,
}

impl Remote {
    pub(super) fn open(proc: &Path, pid: u32) -> Result<Self> {
        let file = File::open(proc.join(pid.to_string()).join("mem"))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| proc == Path::new(OWN_PROC));
        let numbered = pid.and_then(|pid| Some((pid, pidfd_open(pid, PidfdFlags::empty()).ok()?)));
        Ok(Self { file, numbered })
    }

    /// Fills `bytes` with what is there from `address` on.
    pub(super) fn read_exact_at(&self, bytes: &mut [u8], address: u64) -> Result<()> {
        match &self.numbered {
            Some((pid, handle)) if read_by_number(*pid, bytes, address) && lives(handle) => Ok(()),
            // No such call, no leave to use it, not all of it there: this way tells why, or can do it.
            Some(_) | None => self.file.read_exact_at(bytes, address),
        }
    }
}

/// Whether all of it was read.
fn read_by_number(pid: Pid, bytes: &mut [u8], address: u64) -> bool {
    let Ok(address) = usize::try_from(address) else { return false };
    let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let there = libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: bytes.len() };
    // SAFETY: one vector each, of which the first is `bytes`, writable and as long as it says; the second means the memory of
    // another process, where the kernel checks it. If it is this one's own, it is only read.
    let read = unsafe { libc::process_vm_readv(pid.as_raw_nonzero().get(), &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(read) == Ok(bytes.len())
}

fn lives(handle: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&now)) == Ok(0)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts a process of its own")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_an_error() {
        let text = *b"what is in this very process";
        let address = text.as_ptr() as u64;
        let remote = Remote::open(Path::new("/proc"), std::process::id()).unwrap();
        let by_file = Remote { numbered: None, ..Remote::open(Path::new("/proc"), std::process::id()).unwrap() };
        assert!(remote.numbered.is_some());
        let (pid, _) = remote.numbered.as_ref().unwrap();
        let mut seen = [0; 28];
        assert!(read_by_number(*pid, &mut seen, address) && seen == text);
        for way in [remote, by_file] {
            let mut seen = [0; 28];
            way.read_exact_at(&mut seen, address).unwrap();
            assert_eq!(seen, text);
            assert!(way.read_exact_at(&mut seen, 4096).is_err(), "nobody has a first page");
        }
    }

    /// As if another had got the number of one that ended: this very process.
    #[test]
    fn the_memory_of_another_is_never_taken_for_its_own() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mut remote = Remote::open(Path::new("/proc"), child.id()).unwrap();
        remote.numbered.as_mut().unwrap().0 = rustix::process::getpid();
        child.kill().unwrap();
        child.wait().unwrap();
        let text = *b"not the child's";
        let mut seen = [0; 15];
        assert!(remote.read_exact_at(&mut seen, text.as_ptr() as u64).is_err());
    }
}
