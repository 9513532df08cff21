//! Takes away what `setup` made.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use smolvm_model::effect::Effect;

use super::error::ImageError;
use super::{guard, layout, listing, unused, workdir};
use crate::effect::perform;
use crate::fsx::{FsError, Removed, remove_tree};
use crate::lock::{self, Lock};

/// Everything beneath the cache that this module makes; the rest of the cache is somebody else's.
const MADE: [&str; 8] = ["templates", "images", "blobs", "kernels", "initramfs", "disks", "apt", "tmp"];
/// Locks whose holders are at work on one of those.
const WAIT: Duration = Duration::from_secs(2);

/// While it is there, nobody makes or uses anything of the cache.
#[derive(Debug, Default)]
pub struct Held {
    images: Option<Lock>,
    locks: Vec<Lock>,
}

/// Keeps everybody away from all that [`remove`] takes. Refuses (lock busy) while a build is under way.
pub fn hold(cache: &Path) -> Result<Held, ImageError> {
    if !cache.is_dir() {
        return Ok(Held::default());
    }
    let take = |name: &String| lock::take(&layout::locks(cache).join(name), WAIT);
    // Who makes a template comes to need the images, and who makes an image has them already.
    let (before, after): (Vec<String>, Vec<String>) = locks(cache)?.into_iter().partition(|name| name.starts_with("template-"));
    let mut locks = before.iter().map(take).collect::<Result<Vec<Lock>, _>>()?;
    let images = Some(guard::removing(cache, WAIT)?);
    locks.extend(after.iter().map(take).collect::<Result<Vec<Lock>, _>>()?);
    Ok(Held { images, locks })
}

/// Removes templates, kernels, initramfs, images, data disk templates and package lists.
///
/// Whether sandboxes still need an image is for the caller to find out while it holds them.
pub fn remove(cache: &Path, held: Held) -> Result<Removed, ImageError> {
    let mut removed = Removed::default();
    let directory = match File::open(cache) {
        Ok(directory) => directory,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(removed),
        Err(e) => return Err(FsError::on("open", cache)(e).into()),
    };
    for name in MADE {
        let part = perform(Effect::RemoveCache, |_| remove_tree(&directory, OsStr::new(name)))?;
        removed.entries += part.entries;
        removed.bytes += part.bytes;
    }
    for lock in held.locks {
        lock.remove()?;
        removed.entries += 1;
    }
    // Last: whoever waits for it then finds nothing. Looking alone makes it, so it is no part of what was there.
    held.images.map_or(Ok(()), Lock::remove)?;
    // Ours only when nobody else keeps locks there.
    let _ = perform(Effect::RemoveCache, |_| std::fs::remove_dir(layout::locks(cache)));
    Ok(removed)
}

/// Removes what builders that were killed left behind. Gives back the bytes that were freed.
pub fn sweep(cache: &Path) -> Result<u64, ImageError> {
    let freed = workdir::sweep_dead(cache)?;
    Ok(freed + unused::sweep_store(cache)?)
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

    fn removed(cache: &Path) -> Result<Removed, ImageError> {
        remove(cache, hold(cache)?)
    }

    #[test]
    fn what_was_made_goes_and_the_rest_stays() {
        let cache = tempfile::tempdir().unwrap();
        super::super::disk::blank(cache.path(), 64 << 20).unwrap();
        std::fs::create_dir_all(cache.path().join("images/by-name")).unwrap();
        std::fs::create_dir(cache.path().join("engine")).unwrap();
        assert!(removed(cache.path()).unwrap().entries >= 4);
        let left: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["engine"]);
        assert_eq!(removed(cache.path()).unwrap(), Removed::default());
        assert_eq!(removed(Path::new("/nonexistent")).unwrap(), Removed::default());
    }

    #[test]
    fn a_build_under_way_is_not_disturbed() {
        let cache = tempfile::tempdir().unwrap();
        let build = workdir::Workdir::new(cache.path(), "image-x", Duration::ZERO).unwrap();
        assert!(matches!(removed(cache.path()), Err(ImageError::Lock(LockError::Busy { .. }))));
        assert!(build.path().exists());
        drop(build);
        let using = guard::using(cache.path(), Duration::ZERO).unwrap();
        assert!(matches!(removed(cache.path()), Err(ImageError::Lock(LockError::Busy { .. }))));
        drop(using);
        removed(cache.path()).unwrap();
    }
}
