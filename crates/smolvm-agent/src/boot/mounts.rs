//! The kernel's own file systems, in the initramfs and in the guest's root.

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::failed;
use crate::serve::BootFailure;

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// One mount of the guest's root.
struct Entry {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: Option<&'static std::ffi::CStr>,
}

/// What a guest finds mounted besides `/proc`, `/sys` and `/dev`, which move in from the initramfs.
const ENTRIES: [Entry; 4] = [
    Entry {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
    Entry { kind: "tmpfs", at: "/dev/shm", flags: QUIET, options: Some(c"mode=1777") },
    Entry { kind: "tmpfs", at: "/run", flags: QUIET, options: Some(c"mode=755") },
    Entry { kind: "tmpfs", at: "/tmp", flags: QUIET, options: Some(c"mode=1777") },
];

/// Links that programs expect beside the kernel's device nodes.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// What the agent itself needs to see devices.
pub(super) fn early() -> Result<(), BootFailure> {
    for (kind, at, flags) in [
        ("proc", "/proc", QUIET | MountFlags::NOEXEC),
        ("sysfs", "/sys", QUIET | MountFlags::NOEXEC),
        ("devtmpfs", "/dev", MountFlags::NOSUID),
    ] {
        mount(kind, at, kind, flags, None).map_err(failed("mounts", at))?;
    }
    Ok(())
}

/// The rest, once the guest's root is `/`.
pub(super) fn finish() -> Result<(), BootFailure> {
    for entry in &ENTRIES {
        let mounted = |entry: &Entry| mount(entry.kind, entry.at, entry.kind, entry.flags, entry.options);
        let result = match mounted(entry) {
            // Images without the directory are common enough, and making it first would cost every other one.
            Err(Errno::NOENT) => make_directory(entry.at).and_then(|()| mounted(entry)),
            other => other,
        };
        result.map_err(failed("mounts", entry.at))?;
    }
    for (to, link) in LINKS {
        match rustix::fs::symlink(to, link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("mounts", link)(errno)),
        }
    }
    Ok(())
}

/// Where an init keeps its services apart.
pub(super) fn control_groups() -> Result<(), BootFailure> {
    let at = "/sys/fs/cgroup";
    let mounted = mount("cgroup2", at, "cgroup2", QUIET | MountFlags::NOEXEC, Some(c"nsdelegate,memory_recursiveprot"));
    mounted.map_err(failed("init", at))
}

/// Makes a directory unless it is there.
pub(super) fn make_directory(path: &str) -> Result<(), Errno> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}
