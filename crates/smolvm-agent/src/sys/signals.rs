//! Signals as a file descriptor, so that one poll waits for everything.
#![allow(unsafe_code, reason = "signalfd has no safe wrapper")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

/// What pid 1 listens to: children, the three of busybox's `halt`, `poweroff` and `reboot`, and the
/// kernel's Ctrl-Alt-Del and power failure.
const WATCHED: [libc::c_int; 6] = [libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT, libc::SIGPWR];

/// Blocks the watched signals and makes them readable.
pub(crate) fn listen() -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain data that sigemptyset fills; every pointer is to this local; the
    // descriptor is fresh and owned by nobody else.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in WATCHED {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        if fd < 0 {
            let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Errno::from_raw_os_error(code));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Makes a write to a pipe without a reader an error instead of a death.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: sets a disposition that runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// The next pending signal, if there is one.
pub(crate) fn next(signals: impl AsFd) -> Option<i32> {
    // struct signalfd_siginfo: 128 bytes, the signal's number first.
    let mut info = [0_u8; 128];
    let count = rustix::io::read(signals, &mut info).ok()?;
    if count < info.len() {
        return None;
    }
    info.first_chunk::<4>().and_then(|b| i32::try_from(u32::from_ne_bytes(*b)).ok())
}
