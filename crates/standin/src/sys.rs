//! Raw system calls: the stand-in goes around every wrapper that would hold it back.

#![allow(unsafe_code, reason = "the point of this program is to call the kernel in ways no safe wrapper offers")]

use std::fs::File;
use std::os::fd::FromRawFd;

/// A system call with plain numbers; pointers are passed as their address by callers that keep the value alive.
pub(crate) fn call(number: i64, args: [usize; 5]) -> Result<i64, i32> {
    // SAFETY: callers pass numbers, or addresses of values that outlive the call and are as long as
    // the call needs; the kernel checks everything else.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], 0_usize) };
    if result < 0 { Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(result) }
}

/// A descriptor this program was started with, as a file that is never closed.
pub(crate) fn adopt(fd: i32) -> File {
    // SAFETY: the launcher's table says that this descriptor is open and ours; a copy is made so that
    // dropping the file leaves the number open.
    unsafe { File::from_raw_fd(libc::dup(fd)) }
}

/// Runs `attempt` in a child and gives its result.
pub(crate) fn in_child(attempt: impl FnOnce() -> Result<(), i32>) -> Result<(), i32> {
    // SAFETY: this program has one thread, so its child may do anything.
    match unsafe { libc::fork() } {
        0 => {
            let code = attempt().err().unwrap_or(0);
            // SAFETY: ends the child without running what belongs to its parent.
            unsafe { libc::_exit(code) }
        }
        pid if pid > 0 => {
            let mut status = 0;
            // SAFETY: our own child, and an int on this stack.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            if !libc::WIFEXITED(status) {
                return Err(libc::EINTR);
            }
            match libc::WEXITSTATUS(status) {
                0 => Ok(()),
                errno => Err(errno),
            }
        }
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}

/// Installs a seccomp filter of one instruction: allow.
pub(crate) fn allow_everything_filter() -> Result<(), i32> {
    let code = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let program = libc::sock_fprog { len: 1, filter: code.as_ptr().cast_mut() };
    let filter = usize::try_from(libc::SECCOMP_MODE_FILTER).unwrap_or(2);
    call(libc::SYS_prctl, [usize::try_from(libc::PR_SET_SECCOMP).unwrap_or(22), filter, &raw const program as usize, 0, 0]).map(drop)
}
