//! The system calls the jail's child makes on prepared strings, none of which allocates.

#![allow(unsafe_code, reason = "mount calls and files by C string, in a process that may not allocate")]

use std::ffi::{CStr, c_char, c_int, c_long};
use std::ptr;

pub(super) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 8;
pub(super) const AT_RECURSIVE: c_int = 0x8000;
pub(super) const AT_EMPTY_PATH: c_int = 0x1000;

pub(super) fn mount(source: &CStr, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong, data: Option<&CStr>) -> Result<(), i32> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let data: *const c_char = data.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: null or null-terminated strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data.cast()) })
}

pub(super) fn mount_attr(dir: c_int, path: &CStr, flags: c_int, set: u64) -> Result<(), i32> {
    // struct mount_attr { attr_set, attr_clr, propagation, userns_fd }
    let attr = [set, 0, 0, 0];
    // SAFETY: the array is the struct's 32 bytes and outlives the call.
    check_long(unsafe { libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, attr.as_ptr(), size_of_val(&attr)) })
}

pub(super) fn open_tree(path: &CStr) -> Result<c_int, i32> {
    // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    let flags = 1 | libc::O_CLOEXEC;
    // SAFETY: a null-terminated string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 { Err(errno()) } else { c_int::try_from(fd).map_err(|_| libc::EMFILE) }
}

pub(super) fn move_mount(tree: c_int, target: &CStr) -> Result<(), i32> {
    const F_EMPTY_PATH: c_int = 4;
    // SAFETY: null-terminated strings that outlive the call; the descriptor is ours.
    check_long(unsafe { libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), F_EMPTY_PATH) })
}

pub(super) fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), i32> {
    // SAFETY: a null-terminated string, and pointer and length of one slice; the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let outcome = if written < 0 { Err(errno()) } else { Ok(()) };
        libc::close(fd);
        outcome
    }
}

pub(super) fn check(result: c_int) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

pub(super) fn check_long(result: c_long) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

pub(super) fn errno() -> i32 {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// The Landlock ABI this kernel offers.
pub(super) fn landlock_abi() -> Option<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no attribute; it only answers.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0, VERSION) };
    u32::try_from(version).ok().filter(|v| *v > 0)
}
