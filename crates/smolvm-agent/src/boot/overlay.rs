//! The guest's root: a read-only image below, the sandbox's own disk above.
//!
//! ```text
//!   initramfs  /lower  ◄── disk serial=root (ext4, read-only)
//!              /data   ◄── disk serial=data (ext4), or memory when there is none
//!              /identity     /etc/hostname and its like, in memory
//!              /newroot ◄── overlay(lower=/identity:/lower, upper=/data/upper, work=/data/work) ──► becomes /
//! ```
//!
//! After the switch no path leads to `/data`: its only handle is the descriptor in [`Disk`],
//! through which the shutdown makes the file system read-only and so clean.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, MountFlags, UnmountFlags, mount, mount_move, unmount};

use super::identity::Placed;
use super::mounts::make_directory;
use super::{devices, failed};
use crate::serve::BootFailure;

const STEP: &str = "overlay";

/// The layer that says who the guest is; in memory.
pub(super) const IDENTITY: &str = "/identity";

/// The image.
pub(super) const LOWER: &str = "/lower";

/// The layer over it, where everything written goes.
pub(super) const UPPER: &str = "/data/upper";

/// A handle on the mounted data disk.
pub(super) struct Disk {
    root: OwnedFd,
}

/// Mounts the image. Early: it is the same for every guest of a template.
pub(super) fn mount_image() -> Result<(), BootFailure> {
    let device = devices::disk("root").ok_or_else(|| missing("root"))?;
    make_directory(LOWER).map_err(failed("image", LOWER))?;
    mount(&device, LOWER, "ext4", MountFlags::RDONLY | MountFlags::NOATIME, None).map_err(failed("image", &device))
}

/// Whether there is a disk to keep things on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upper {
    DataDisk,
    Memory,
}

/// Mounts what is written to, with the overlay's two directories in it.
pub(super) fn mount_upper(upper: Upper) -> Result<(), BootFailure> {
    make_directory("/data").map_err(failed(STEP, "/data"))?;
    match upper {
        Upper::DataDisk => {
            let device = devices::disk("data").ok_or_else(|| missing("data"))?;
            // Without noinit_itable a kernel thread would zero inode tables for minutes, and fill the sparse file with them;
            // the other one keeps the same thread from reading every group's bitmap.
            mount(&device, "/data", "ext4", MountFlags::NOATIME, Some(c"noinit_itable,no_prefetch_block_bitmaps"))
                .map_err(failed(STEP, &device))?;
        }
        Upper::Memory => mount("tmpfs", "/data", "tmpfs", MountFlags::NOATIME, Some(c"mode=755")).map_err(failed(STEP, "/data"))?,
    }
    for path in [UPPER, "/data/work"] {
        make_directory(path).map_err(failed(STEP, path))?;
    }
    Ok(())
}

/// Mounts the overlay, with or without the layer that says who the guest is.
pub(super) fn assemble(identity: Placed) -> Result<Disk, BootFailure> {
    make_directory("/newroot").map_err(failed(STEP, "/newroot"))?;
    let layers = match identity {
        Placed::Layer => c"lowerdir=/identity:/lower,upperdir=/data/upper,workdir=/data/work",
        Placed::Refused => c"lowerdir=/lower,upperdir=/data/upper,workdir=/data/work",
    };
    mount("overlay", "/newroot", "overlay", MountFlags::NOATIME, Some(layers)).map_err(failed(STEP, "mount"))?;
    let root = open("/data", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed(STEP, "/data"))?;
    Ok(Disk { root })
}

/// Makes the overlay the root of everything. `/proc`, `/sys` and `/dev` move with it.
pub(super) fn switch_root() -> Result<(), BootFailure> {
    for path in ["/proc", "/sys", "/dev"] {
        let target = format!("/newroot{path}");
        let moved = match mount_move(path, &target) {
            Err(Errno::NOENT) => make_directory(&target).and_then(|()| mount_move(path, &target)),
            other => other,
        };
        moved.map_err(failed("switch_root", &target))?;
    }
    let step = |what| failed("switch_root", what);
    rustix::process::chdir("/newroot").map_err(step("chdir"))?;
    mount_move(".", "/").map_err(step("move"))?;
    rustix::process::chroot(".").map_err(step("chroot"))?;
    rustix::process::chdir("/").map_err(step("chdir"))
}

impl Disk {
    /// Whether nothing of `/etc` was ever changed on it, so that all of that is what the layers below say.
    pub(super) fn leaves_etc(&self) -> bool {
        matches!(rustix::fs::statat(&self.root, "upper/etc", rustix::fs::AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
    }

    /// Brings everything to the disk and marks the file system clean.
    pub(super) fn settle(&self) -> Result<(), Errno> {
        rustix::fs::sync();
        // In order from the top; what is still held by something is made read-only below it all the same.
        for path in ["/tmp", "/run"] {
            let _ = unmount(path, UnmountFlags::DETACH);
        }
        let _ = rustix::mount::mount_remount("/", MountFlags::RDONLY, "");
        let context = rustix::mount::fspick(&self.root, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
        rustix::mount::fsconfig_set_flag(&context, "ro")?;
        rustix::mount::fsconfig_reconfigure(&context)
    }
}

fn missing(serial: &str) -> BootFailure {
    BootFailure { step: "disks", message: format!("there is no disk with the serial {serial:?}") }
}
