//! Removes a directory tree beneath an open directory.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat, unlinkat};
use rustix::io::Errno;

use super::FsError;

/// How deep a tree may be: ours are two levels deep, and each level holds one descriptor.
const MAX_DEPTH: u32 = 64;
/// Names that are read at once; a directory of ours has a handful, and the longest name fits fifteen times.
const NAMES: usize = 4096;

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
    let name = CString::new(name.as_bytes()).map_err(|_| fail(Errno::INVAL))?;
    // Ours are directories. What is not one is found out by opening it as one.
    remove_entry(parent.as_fd(), &name, FileType::Directory, &mut removed, 0).map_err(fail)?;
    Ok(removed)
}

/// `seems` saves a look at each directory; what it says is not relied on.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, seems: FileType, removed: &mut Removed, depth: u32) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::LOOP);
    }
    if seems == FileType::Directory {
        match openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => return empty(dir.as_fd(), removed, depth).and_then(|()| unlink(parent, name, AtFlags::REMOVEDIR, 0, removed)),
            // Somebody else unlinks the same tree, and was quicker.
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
    }
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return remove_entry(parent, name, FileType::Directory, removed, depth + 1);
    }
    // Blocks of a file with another link are not freed.
    let blocks = if stat.st_nlink == 1 { u64::try_from(stat.st_blocks).unwrap_or(0) } else { 0 };
    unlink(parent, name, AtFlags::empty(), blocks * 512, removed)
}

/// Removes everything in an open directory.
fn empty(dir: BorrowedFd<'_>, removed: &mut Removed, depth: u32) -> Result<(), Errno> {
    let mut names = [MaybeUninit::uninit(); NAMES];
    let mut entries = RawDir::new(dir, &mut names);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            // Removed by somebody else since it was opened: nothing is in it any more.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let name = entry.file_name();
        if name != c"." && name != c".." {
            remove_entry(dir, name, entry.file_type(), removed, depth + 1)?;
        }
    }
    Ok(())
}

fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags, bytes: u64, removed: &mut Removed) -> Result<(), Errno> {
    match unlinkat(parent, name, flags) {
        Ok(()) => {
            removed.entries += 1;
            removed.bytes += bytes;
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

    /// Names come in several reads, and go while they are read.
    #[test]
    fn a_large_tree_goes_entirely_and_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("t");
        for sub in 0..3 {
            std::fs::create_dir_all(tree.join(format!("sub-{sub}"))).unwrap();
            for file in 0..500 {
                std::fs::write(tree.join(format!("sub-{sub}/a-rather-long-name-of-a-file-{file}")), "x").unwrap();
            }
        }
        std::fs::write(tree.join("sub-0/linked"), "x").unwrap();
        std::fs::hard_link(tree.join("sub-0/linked"), dir.path().join("other")).unwrap();
        let block = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(dir.path().join("other")).unwrap()) * 512;
        let removed = remove_tree(File::open(dir.path()).unwrap(), OsStr::new("t")).unwrap();
        // 1,500 files, one whose other link keeps its blocks, three directories and their own.
        assert_eq!(removed, Removed { entries: 1505, bytes: 1500 * block });
        assert!(!tree.exists());
    }

    #[test]
    fn a_directory_that_somebody_else_removed_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("t")).unwrap();
        let open = File::open(dir.path().join("t")).unwrap();
        std::fs::remove_dir(dir.path().join("t")).unwrap();
        let mut removed = Removed::default();
        assert_eq!(empty(open.as_fd(), &mut removed, 0), Ok(()));
        assert_eq!(removed, Removed::default());
    }

    #[test]
    fn a_file_in_the_place_of_a_tree_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let handle = File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("l")).unwrap();
        for name in ["f", "l"] {
            assert_eq!(remove_tree(&handle, OsStr::new(name)).unwrap().entries, 1, "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", ".", "..", "a/b", "/etc"] {
            assert!(remove_tree(File::open(dir.path()).unwrap(), OsStr::new(bad)).is_err(), "{bad:?}");
        }
    }
}
