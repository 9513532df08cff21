//! Takes away what `setup` made.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use smolvm_model::effect::Effect;

use super::error::ImageError;
use super::{layout, listing, workdir};
use crate::effect::perform;
use crate::fsx::{FsError, Removed, remove_tree};
use crate::lock;

/// Everything beneath the cache that this module makes; the rest of the cache is somebody else's.
const MADE: [&str; 8] = ["templates", "images", "blobs", "kernels", "initramfs", "disks", "apt", "tmp"];
/// Locks whose holders are at work on one of those.
const WAIT: Duration = Duration::from_secs(2);

/// Removes templates, kernels, initramfs, images, data disk templates and package lists.
///
/// Refuses (lock busy) while a build is under way. Whether sandboxes still need an image is for the caller to know.
pub fn remove(cache: &Path) -> Result<Removed, ImageError> {
    let mut removed = Removed::default();
    let directory = match File::open(cache) {
        Ok(directory) => directory,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(removed),
        Err(e) => return Err(FsError::on("open", cache)(e).into()),
    };
    let mut held = Vec::new();
    for name in locks(cache)? {
        held.push(lock::take(&layout::locks(cache).join(name), WAIT)?);
    }
    for name in MADE {
        let part = perform(Effect::RemoveCache, |_| remove_tree(&directory, OsStr::new(name)))?;
        removed.entries += part.entries;
        removed.bytes += part.bytes;
    }
    for lock in held {
        lock.remove()?;
        removed.entries += 1;
    }
    // Ours only when nobody else keeps locks there.
    let _ = perform(Effect::RemoveCache, |_| std::fs::remove_dir(layout::locks(cache)));
    Ok(removed)
}

/// Removes what builders that were killed left behind. Gives back the bytes that were freed.
pub fn sweep(cache: &Path) -> Result<u64, ImageError> {
    workdir::sweep_dead(cache)
}

/// The lock files of builds.
fn locks(cache: &Path) -> Result<Vec<String>, FsError> {
    listing::names(&layout::locks(cache), is_build_lock)
}

fn is_build_lock(name: &str) -> bool {
    name.strip_suffix(".lock").is_some_and(|artefact| {
        matches!(artefact, "apt" | "kernel" | "initramfs")
            || ["image-", "disk-", "template-", "blob-"].iter().any(|kind| artefact.starts_with(kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockError;

    #[test]
    fn what_was_made_goes_and_the_rest_stays() {
        let cache = tempfile::tempdir().unwrap();
        super::super::disk::blank(cache.path(), 64 << 20).unwrap();
        std::fs::create_dir_all(cache.path().join("images/by-name")).unwrap();
        std::fs::create_dir(cache.path().join("engine")).unwrap();
        assert!(remove(cache.path()).unwrap().entries >= 4);
        let left: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["engine"]);
        assert_eq!(remove(cache.path()).unwrap(), Removed::default());
        assert_eq!(remove(Path::new("/nonexistent")).unwrap(), Removed::default());
    }

    #[test]
    fn a_build_under_way_is_not_disturbed() {
        let cache = tempfile::tempdir().unwrap();
        let build = workdir::Workdir::new(cache.path(), "image-x", Duration::ZERO).unwrap();
        assert!(matches!(remove(cache.path()), Err(ImageError::Lock(LockError::Busy { .. }))));
        assert!(build.path().exists());
    }
}
