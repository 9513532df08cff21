//! Removes a directory tree beneath an open directory.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::FsError;

/// How deep a tree may be: ours are two levels deep, and each level holds one descriptor.
const MAX_DEPTH: u32 = 64;

/// What a removal did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files and directories that were unlinked.
    pub entries: u64,
    /// Bytes of disk they held.
    pub bytes: u64,
}

/// Removes `name` and all below it from the directory `parent`; absent is no error.
///
/// Never follows a symlink: each level is opened by name from its parent with `O_NOFOLLOW`, and a
/// link is unlinked as a link.
pub fn remove_tree(parent: impl AsFd, name: &OsStr) -> Result<Removed, FsError> {
    let mut removed = Removed::default();
    let fail = |errno: Errno| FsError { action: "remove", path: Path::new(name).to_owned(), source: errno.into() };
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(fail(Errno::INVAL));
    }
    remove_entry(parent.as_fd(), name, &mut removed, 0).map_err(fail)?;
    Ok(removed)
}

fn remove_entry(parent: BorrowedFd<'_>, name: &OsStr, removed: &mut Removed, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_dir {
        let dir = match openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => dir,
            // Somebody else unlinks the same tree, and was quicker.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if child != b"." && child != b".." {
                remove_entry(dir.as_fd(), OsStr::from_bytes(child), removed, depth + 1)?;
            }
        }
    }
    let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    match unlinkat(parent, name, flags) {
        Ok(()) => {
            removed.entries += 1;
            // Blocks of a file with another link are not freed.
            if !is_dir && stat.st_nlink == 1 {
                removed.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn symlinks_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let tree = dir.path().join("t");
        std::fs::create_dir_all(tree.join("sub")).unwrap();
        std::fs::write(tree.join("sub/f"), "data").unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.join("sub/link")).unwrap();
        let removed = remove_tree(File::open(dir.path()).unwrap(), OsStr::new("t")).unwrap();
        assert_eq!(removed.entries, 4);
        assert!(!tree.exists() && outside.path().join("keep").exists());
        assert_eq!(remove_tree(File::open(dir.path()).unwrap(), OsStr::new("t")).unwrap(), Removed::default());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", ".", "..", "a/b", "/etc"] {
            assert!(remove_tree(File::open(dir.path()).unwrap(), OsStr::new(bad)).is_err(), "{bad:?}");
        }
    }
}
