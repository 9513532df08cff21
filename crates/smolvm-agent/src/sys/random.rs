//! Giving the kernel's random generator entropy that it counts.
#![allow(unsafe_code, reason = "both ioctls of random(4) have no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Most bytes one call takes.
pub(crate) const MAX: usize = 512;

/// `struct rand_pool_info` of random(4), with room for [`MAX`] bytes.
#[repr(C)]
struct PoolInfo {
    bits: libc::c_int,
    bytes: libc::c_int,
    pool: [u8; MAX],
}

const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// Adds `seed` to the pool behind `device` (`/dev/random`), credits all of it, and makes the
/// generator take it up at once: a fork must not draw the same numbers as its template.
pub(crate) fn credit_and_reseed(device: BorrowedFd<'_>, seed: &[u8]) -> Result<(), Errno> {
    let seed = &seed[..seed.len().min(MAX)];
    let len = i32::try_from(seed.len()).unwrap_or(0);
    let mut info = PoolInfo { bits: len * 8, bytes: len, pool: [0; MAX] };
    info.pool[..seed.len()].copy_from_slice(seed);
    // SAFETY: the kernel reads two ints and `bytes` bytes, all of them inside `info`.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    check(added)?;
    // SAFETY: this request takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) })
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result >= 0 {
        return Ok(());
    }
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Err(Errno::from_raw_os_error(code))
}
