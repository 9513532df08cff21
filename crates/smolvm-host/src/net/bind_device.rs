//! Ties a socket to one network device.
#![allow(unsafe_code)] // setsockopt with a string, which has no safe form elsewhere

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use smolvm_model::name::TapName;

/// From here on the socket receives from and sends to this device alone.
pub(super) fn bind_device(socket: impl AsFd, device: &TapName) -> io::Result<()> {
    let name = device.as_str().as_bytes();
    let len = libc::socklen_t::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: SO_BINDTODEVICE reads `len` bytes from `name`, which outlives the call.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, name.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
