//! Where things lie in the cache directory.

use std::path::{Path, PathBuf};

use smolvm_model::effect::Effect;

use crate::effect::perform;
use crate::fsx::{FsError, create_private_dir};

/// Content-addressed root images.
pub(super) fn images(cache: &Path) -> PathBuf {
    cache.join("images")
}

/// Names of images: files that hold a digest.
pub(super) fn names(cache: &Path) -> PathBuf {
    images(cache).join("by-name")
}

/// References of registries: files that hold a digest.
pub(super) fn references(cache: &Path) -> PathBuf {
    images(cache).join("by-reference")
}

/// Manifests of registries: files that hold the digest of the image that was made of each.
pub(super) fn manifests(cache: &Path) -> PathBuf {
    images(cache).join("by-manifest")
}

/// Parts of images as registries have them, by digest.
pub(super) fn blobs(cache: &Path) -> PathBuf {
    cache.join("blobs")
}

/// What has come of such parts.
pub(super) fn partial_blobs(cache: &Path) -> PathBuf {
    blobs(cache).join("partial")
}

/// Unpacked kernels with their modules.
pub(super) fn kernels(cache: &Path) -> PathBuf {
    cache.join("kernels")
}

/// Content-addressed initramfs archives.
pub(super) fn initramfs(cache: &Path) -> PathBuf {
    cache.join("initramfs")
}

/// Empty data disks.
pub(super) fn disks(cache: &Path) -> PathBuf {
    cache.join("disks")
}

/// Parked machines.
pub(super) fn templates(cache: &Path) -> PathBuf {
    cache.join("templates")
}

/// Our own package lists and apt's other state.
pub(super) fn apt(cache: &Path) -> PathBuf {
    cache.join("apt")
}

/// Builds under way, each in its own directory.
pub(super) fn temporary(cache: &Path) -> PathBuf {
    cache.join("tmp")
}

/// The lock of one artefact; its directory is made.
pub(super) fn lock(cache: &Path, artefact: &str) -> Result<PathBuf, FsError> {
    let locks = locks(cache);
    if !locks.is_dir() {
        perform(Effect::Home, |_| create_private_dir(&locks))?;
    }
    Ok(locks.join(format!("{artefact}.lock")))
}

/// All of the cache's locks.
pub(super) fn locks(cache: &Path) -> PathBuf {
    cache.join("locks")
}
