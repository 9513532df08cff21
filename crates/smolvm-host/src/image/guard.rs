//! One lock on all images of a cache, so that nobody removes what somebody is just about to need.
//!
//! ```text
//!   shared   whoever uses or makes an image: pull, load, save, import, debootstrap, tag, setup, snapshot; create until its row says what
//!            it needs
//!   alone    whoever removes one: rm, prune, image prune, setup --remove; looks at names and rows once more while it is held. And the sweep
//!            of what killed commands left, by load, setup, prune and cleanup, if nobody is at work
//! ```
//!
//! It is taken before the locks of single images and blobs and before the locks of sandboxes, and after those of the pool and of templates.
//! Who holds it alone takes no lock of a sandbox. All waits are bounded.

use std::path::Path;
use std::time::Duration;

use super::error::ImageError;
use super::layout;
use crate::lock::{self, Lock};

/// The lock's name among those of artefacts.
pub(super) const NAME: &str = "images";
/// How long makers wait for a removal: those take as long as the file system needs to free the files.
pub(super) const MAKER_WAIT: Duration = Duration::from_mins(1);

/// While it is there, no image, no blob and no name of the cache is removed.
#[derive(Debug)]
pub struct ImagesInUse {
    _lock: Lock,
}

/// Keeps removals away; waits for one that is under way.
pub fn using(cache: &Path, wait: Duration) -> Result<ImagesInUse, ImageError> {
    Ok(ImagesInUse { _lock: lock::take_shared(&layout::lock(cache, NAME)?, wait)? })
}

/// Keeps everybody away who uses or makes an image.
pub(super) fn removing(cache: &Path, wait: Duration) -> Result<Lock, ImageError> {
    Ok(lock::take(&layout::lock(cache, NAME)?, wait)?)
}

/// Whether the images are reached through a link: then another installation may need them, and its ledger is not ours to read.
pub fn is_linked(cache: &Path) -> bool {
    [cache.to_owned(), layout::images(cache), layout::blobs(cache)].iter().any(|path| path.is_symlink())
}
