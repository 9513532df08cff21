//! A place to build in: private, locked, and gone afterwards whatever happens.
//!
//! ```text
//!   locks/<artefact>.lock   held while somebody builds <artefact>
//!   tmp/<artefact>.<random> where; who holds the lock may remove every one of these
//! ```
//!
//! A builder that is killed lets go of its lock with its life, so the next one of the same artefact,
//! or [`sweep`], recognises what it left.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;

use super::error::ImageError;
use super::namespace::{self, Identity};
use super::{layout, listing};
use crate::effect::perform;
use crate::fsx::{FsError, create_private_dir, remove_tree};
use crate::lock::{self, Lock, LockError};

/// A held lock and the directory that goes with it.
#[derive(Debug)]
pub(super) struct Workdir {
    parent: PathBuf,
    name: OsString,
    /// Held until the directory is gone.
    lock: Option<Lock>,
    /// Whether nobody will build the same artefact again: then its lock file goes, too.
    once: bool,
}

impl Workdir {
    /// Waits for the lock of `artefact`, removes what dead builders of it left, and makes a fresh directory.
    pub(super) fn new(cache: &Path, artefact: &str, wait: Duration) -> Result<Self, ImageError> {
        let lock = lock::take(&layout::lock(cache, artefact)?, wait)?;
        let parent = layout::temporary(cache);
        perform(Effect::Workdir, |_| -> Result<(), FsError> {
            create_private_dir(&parent)?;
            remove_left_by(&parent, artefact).map(drop)
        })?;
        let mut random = [0_u8; 8];
        getrandom::fill(&mut random).map_err(|e| FsError::on("name a directory in", &parent)(std::io::Error::other(e)))?;
        let name = OsString::from(format!("{artefact}.{:016x}", u64::from_le_bytes(random)));
        perform(Effect::Workdir, |_| create_private_dir(&parent.join(&name)))?;
        Ok(Self { parent, name, lock: Some(lock), once: false })
    }

    /// The same for what is built under a name that may never be used again.
    pub(super) fn once(root: &Path, artefact: &str, wait: Duration) -> Result<Self, ImageError> {
        let mut made = Self::new(root, artefact, wait)?;
        made.once = true;
        Ok(made)
    }

    /// The directory.
    pub(super) fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // What cannot be removed now is found by the next builder under the same lock.
        if let Ok(parent) = File::open(&self.parent) {
            remove_build(&parent, &self.parent, &self.name);
        }
        if self.once
            && let Some(lock) = self.lock.take()
        {
            let _ = lock.remove();
        }
    }
}

/// Removes what dead builders left; what a live one holds stays. Gives back the bytes that were freed.
pub(super) fn sweep_dead(cache: &Path) -> Result<u64, ImageError> {
    let parent = layout::temporary(cache);
    let mut freed = 0;
    for artefact in artefacts(&parent)? {
        match lock::take(&layout::lock(cache, &artefact)?, Duration::ZERO) {
            Ok(_held) => freed += perform(Effect::Workdir, |_| remove_left_by(&parent, &artefact))?,
            Err(LockError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(freed)
}

/// The same where everything is built once: the lock files of what nobody builds go, too.
pub(super) fn sweep_dead_once(root: &Path) -> Result<u64, ImageError> {
    let freed = sweep_dead(root)?;
    for name in listing::names(&layout::locks(root), |name| name.strip_suffix(LOCK_SUFFIX).is_some())? {
        match lock::take(&layout::locks(root).join(name), Duration::ZERO) {
            Ok(held) => held.remove()?,
            Err(LockError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(freed)
}

/// How the name of a lock file ends.
const LOCK_SUFFIX: &str = ".lock";

fn remove_left_by(parent: &Path, artefact: &str) -> Result<u64, FsError> {
    let directory = File::open(parent).map_err(FsError::on("open", parent))?;
    let mut freed = 0;
    for entry in std::fs::read_dir(parent).map_err(FsError::on("read", parent))? {
        let name = entry.map_err(FsError::on("read", parent))?.file_name();
        if artefact_of(&name.to_string_lossy()) == Some(artefact) {
            freed += remove_build(&directory, parent, &name);
        }
    }
    Ok(freed)
}

/// Removes one build's directory as far as that goes; gives back the bytes that were freed.
///
/// A tool that outlived its builder may still be writing there: then it stays for later. So it does if
/// anything is mounted in it, for then it is not all ours.
fn remove_build(directory: &File, parent: &Path, name: &OsStr) -> u64 {
    if has_mounts(&parent.join(name)) {
        return 0;
    }
    if let Ok(removed) = remove_tree(directory, name) {
        return removed.bytes;
    }
    if Identity::current() == Identity::User {
        let _ = namespace::remove_mapped(&parent.join(name));
    }
    0
}

fn has_mounts(tree: &Path) -> bool {
    // What cannot be read cannot be vouched for.
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else { return true };
    let tree = std::fs::canonicalize(tree).unwrap_or_else(|_| tree.to_owned());
    table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .any(|point| Path::new(&unescape(point)).starts_with(&tree))
}

/// The kernel writes blank, tab, newline and backslash as `\040` and so on.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let code = tail.first_chunk::<3>().and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        if let (b'\\', Some(code)) = (first, code) {
            bytes.push(code);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

fn artefacts(parent: &Path) -> Result<Vec<String>, FsError> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(FsError::on("read", parent)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(FsError::on("read", parent))?.file_name();
        if let Some(artefact) = artefact_of(&name.to_string_lossy()) {
            found.push(artefact.to_owned());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn artefact_of(name: &str) -> Option<&str> {
    let (artefact, random) = name.rsplit_once('.')?;
    let good = random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit()) && !artefact.is_empty() && !artefact.starts_with('.');
    good.then_some(artefact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_builders_directory_goes_and_a_live_ones_stays() {
        let cache = tempfile::tempdir().unwrap();
        let live = Workdir::new(cache.path(), "image-a", Duration::ZERO).unwrap();
        std::fs::write(live.path().join("f"), "x").unwrap();
        let dead = layout::temporary(cache.path()).join("image-b.0123456789abcdef");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join("f"), vec![1; 8192]).unwrap();
        assert!(sweep_dead(cache.path()).unwrap() >= 8192);
        assert!(!dead.exists() && live.path().join("f").exists());
        assert!(matches!(Workdir::new(cache.path(), "image-a", Duration::ZERO), Err(ImageError::Lock(LockError::Busy { .. }))));
        let path = live.path();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn the_next_builder_clears_up_first() {
        let cache = tempfile::tempdir().unwrap();
        let dead = layout::temporary(cache.path()).join("kernel.0123456789abcdef");
        std::fs::create_dir_all(&dead).unwrap();
        let _next = Workdir::new(cache.path(), "kernel", Duration::ZERO).unwrap();
        assert!(!dead.exists());
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(br"/a\040b\134c\0x"), OsString::from(r"/a b\c\0x"));
        assert!(has_mounts(Path::new("/")) && has_mounts(Path::new("/proc")));
        assert!(!has_mounts(tempfile::tempdir().unwrap().path()));
    }

    #[test]
    fn strange_names_belong_to_nobody() {
        for name in ["x", ".0123456789abcdef", "..0123456789abcdef", "a.0123456789abcde", "a.0123456789abcdeg"] {
            assert_eq!(artefact_of(name), None, "{name}");
        }
        assert_eq!(artefact_of("image-a.0123456789abcdef"), Some("image-a"));
    }
}
