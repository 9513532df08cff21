//! What an ordinary process may have got from its parent, and pid 1 never does.
#![allow(unsafe_code, reason = "close_range and signal have no safe wrapper")]

/// Keeps descriptors and ignored signals of the parent from the commands.
pub(crate) fn forget() {
    // SAFETY: only sets a flag on descriptors; none is closed under its owner.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for number in (1..=64).filter(|n| *n != libc::SIGPIPE) {
        // The system call itself: glibc keeps two signals from its wrapper. A zeroed action is the default one.
        let action = [0_u64; 4];
        // SAFETY: `action` has the kernel's layout: handler, flags, restorer, mask of eight bytes.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), std::ptr::null::<u64>(), 8_usize) };
    }
}
