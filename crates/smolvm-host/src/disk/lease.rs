//! Whether anybody can write a file that is open somewhere.
//!
//! A hypervisor that was told to let go of a file may not have done so: guest code may be in it. What it has open can be
//! hidden from `/proc`, in a socket that it sent it into or in a ring of the kernel's. But the kernel counts who has a file
//! open for writing, wherever that is, and gives a lease for reading only if nobody has.

#![allow(unsafe_code, reason = "leases have no safe wrapper")]

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

/// Whether nobody has this file, which was opened for reading, open for writing or mapped so.
///
/// # Errors
/// `EINVAL` where the file system has no leases, `EACCES` for a file of another user: nothing is known then.
pub fn has_no_writer(file: &File) -> Result<bool> {
    match fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => return Ok(false),
        Err(e) => return Err(e),
    }
    fcntl(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| true)
}

fn fcntl(file: &File, command: i32, argument: i32) -> Result<()> {
    // SAFETY: a descriptor that is open, and numbers: the kernel gets no pointer.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::fdpass::send_with;

    #[test]
    fn a_writer_is_seen_and_one_who_reads_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let (reader, _other) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(!has_no_writer(&reader).unwrap());
        drop(writer);
        assert!(has_no_writer(&reader).unwrap());
        // The lease is given back: whoever wants to write is not held up.
        drop(File::options().write(true).open(&path).unwrap());
    }

    /// What a hypervisor would do that wants to keep its hand on the disk of others.
    #[test]
    fn a_writer_that_nobody_sees_in_proc_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        send_with(&one, b"x", Some(writer.as_fd()), rustix::net::SendFlags::empty()).unwrap();
        drop(writer);
        assert!(!has_no_writer(&reader).unwrap(), "a descriptor on its way through a socket");
        drop((one, two));
        assert!(has_no_writer(&reader).unwrap());
    }
}
