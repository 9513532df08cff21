//! Answers a program's `open` with a descriptor of our choice.
//!
//! ```text
//!   jailed program            kernel                     who started it
//!   openat(P, O_RDWR) ──►  held by the filter  ──►  Listener::next ─┬─ P is the path: give(file)
//!        fd      ◄──────   file, as it was opened   ◄───────────────┴─ else: pass         every other call is not held
//! ```
//!
//! QEMU before 8.2 maps a guest's memory from a file only if it may open that file for writing, also where it
//! maps it privately. A path it could open for writing would be one through which it could write to the memory of
//! every later guest. So there is no path: the call is held by a filter, and what comes back is a descriptor that
//! was opened for reading. The kernel maps that privately and in no other way.
//!
//! Invariants: only a call with exactly these flags is held; once the listener is closed such a call fails with
//! ENOSYS, so that the program can never open a file to read and write again; the filter refuses nothing and
//! allows nothing that would not be without it, so it is no part of the jail's protection.
//!
//! Linux 5.14 or later (`SECCOMP_ADDFD_FLAG_SEND`); `seccomp_unotify(2)` describes the mechanism.

#![allow(unsafe_code, reason = "seccomp's listener has no safe wrapper")]
#![allow(clippy::cast_possible_truncation, reason = "numbers of the kernel's interface, each far below 65,536")]

use std::ffi::{CStr, c_int};
use std::fs::File;
use std::io::{Error, Result};
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use rustix::net::RecvFlags;

use crate::fdpass::receive_with;

/// `AUDIT_ARCH_X86_64`: 64 bits, least byte first, machine 62.
const ARCH: u32 = 0xC000_003E;

/// Holds `openat` with the flags `O_RDWR` and no other, and lets everything else pass.
const FILTER: [libc::sock_filter; 8] = [
    load(offset_of!(libc::seccomp_data, arch)),
    unless(ARCH, 5),
    load(offset_of!(libc::seccomp_data, nr)),
    unless(libc::SYS_openat as u32, 3),
    load(offset_of!(libc::seccomp_data, args) + 2 * size_of::<u64>()),
    unless(libc::O_RDWR.cast_unsigned(), 1),
    give(libc::SECCOMP_RET_USER_NOTIF),
    give(libc::SECCOMP_RET_ALLOW),
];

/// Loads the word at an offset of `seccomp_data`.
const fn load(offset: usize) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset as u32 }
}

/// Skips so many instructions unless the word is this one.
const fn unless(value: u32, skip: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: skip, k: value }
}

const fn give(verdict: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: verdict }
}

/// In the child, before it executes anything: puts the filter on and sends its listener through a socket.
///
/// Allocates nothing.
pub(super) fn hold(socket: c_int) -> std::result::Result<(), i32> {
    let program = libc::sock_fprog { len: FILTER.len() as u16, filter: FILTER.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the program points to a constant, which the kernel only reads.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let Ok(listener) = c_int::try_from(listener) else { return Err(libc::EMFILE) };
    if listener < 0 {
        return Err(errno());
    }
    // SAFETY: message, data and control buffer live on this stack for the call; the buffer has room for one header
    // with one descriptor, and is aligned as its elements are.
    unsafe {
        let mut byte = 0_u8;
        let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut control = [0_u64; 4];
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<c_int>() as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<c_int>(), listener);
        let sent = libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL);
        let outcome = if sent < 0 { Err(errno()) } else { Ok(()) };
        libc::close(listener);
        outcome
    }
}

/// The place where a program's opens wait for an answer. Dropped, they fail with ENOSYS.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes the listener that [`hold`] sent.
    pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Self> {
        let (_, received) = receive_with(socket, &mut [0], RecvFlags::DONTWAIT)?;
        received.map(Self).ok_or_else(|| Error::other("no descriptor came"))
    }

    /// Takes the call that waits. Blocks until there is one: poll first.
    pub fn next(&self) -> Result<Call> {
        // SAFETY: plain data for which zero is a value, as the kernel wants it; it lives on this stack for the call.
        let call = unsafe {
            let mut call: libc::seccomp_notif = zeroed();
            done(libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call))?;
            call
        };
        // Who waits is a child of ours that cannot go on, so the pid is still its own.
        let memory = File::open(format!("/proc/{}/mem", call.pid))?;
        let mut path = [0; LONGEST];
        let read = memory.read_at(&mut path, call.data.args[1])?;
        let path = CStr::from_bytes_until_nul(&path[..read]).ok().and_then(|path| path.to_str().ok()).map(str::to_owned);
        Ok(Call { id: call.id, path })
    }

    /// Answers a call with a copy of `file`.
    pub fn give(&self, call: &Call, file: BorrowedFd<'_>) -> Result<()> {
        // SAFETY: as above.
        unsafe {
            let mut answer: libc::seccomp_notif_addfd = zeroed();
            answer.id = call.id;
            answer.flags = libc::SECCOMP_ADDFD_FLAG_SEND as u32;
            answer.srcfd = file.as_raw_fd().cast_unsigned();
            answer.newfd_flags = libc::O_CLOEXEC.cast_unsigned();
            done(libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const answer))
        }
    }

    /// Lets the kernel answer a call, as it would have.
    pub fn pass(&self, call: &Call) -> Result<()> {
        // SAFETY: as above.
        unsafe {
            let mut answer: libc::seccomp_notif_resp = zeroed();
            answer.id = call.id;
            answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
            done(libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer))
        }
    }
}

/// A call that is held.
#[derive(Debug)]
pub struct Call {
    id: u64,
    /// What it wants to open; nothing for what is no short text.
    pub path: Option<String>,
}

/// Longest path that is read: the one that is waited for is shorter, and the others only have to be told apart from it.
const LONGEST: usize = 64;

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn done(result: c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn errno() -> i32 {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}
