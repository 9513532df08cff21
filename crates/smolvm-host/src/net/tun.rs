//! The calls on `/dev/net/tun` that have no safe form elsewhere.
#![allow(unsafe_code)] // ioctls with a struct and with a plain number

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Whether a device of the name must be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attach {
    /// A device that exists already is an error (`EBUSY`).
    New,
    /// A device that exists already is the one that is meant.
    Existing,
}

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;
const TUNGETFEATURES: libc::c_ulong = 0x8004_54cf;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
const IFF_TUN_EXCL: i16 = i16::MIN; // 0x8000

/// `struct ifreq` as TUNSETIFF reads it: the name, then the flags in a union of 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// Opens the device node.
pub(super) fn open() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/net/tun")
}

/// What the driver behind an open node can do; fails when something else is behind it.
pub(super) fn features(node: &File) -> io::Result<u32> {
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int, which `features` is and which outlives the call.
    check(unsafe { libc::ioctl(node.as_raw_fd(), TUNGETFEATURES, &raw mut features) })?;
    Ok(features)
}

/// Attaches an open node to the TAP of this name, making it (for as long as it is open) where it is new.
pub(super) fn attach(node: File, name: &str, how: Attach) -> io::Result<OwnedFd> {
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    if how == Attach::New {
        request.flags |= IFF_TUN_EXCL;
    }
    // The last byte stays zero: it ends the name.
    request
        .name
        .get_mut(..15)
        .and_then(|place| place.get_mut(..name.len()))
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (40 bytes), which `request` is as large as and outlives the call.
    let result = unsafe { libc::ioctl(node.as_raw_fd(), TUNSETIFF, &raw mut request) };
    check(result)?;
    Ok(node.into())
}

/// Lets the device stay when its last descriptor is closed.
pub(super) fn persist(tap: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes its argument as a number and touches no memory of ours.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETPERSIST, libc::c_ulong::from(1_u32)) })
}

/// Lets this uid attach to the device without network rights.
pub(super) fn set_owner(tap: &OwnedFd, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes its argument as a number and touches no memory of ours.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOWNER, libc::c_ulong::from(uid)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
