//! Parts of images by their digests: fetched, or put there; checked when they are read.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;
use smolvm_oci::Digest;
use smolvm_oci::registry::Client;

use crate::effect::perform;
use crate::fsx::{self, FsError, create_private_dir, sync_dir};
use crate::image::error::ImageError;
use crate::image::layout;
use crate::lock;

/// How long to wait for somebody who gets the same blob.
const WAIT: Duration = Duration::from_mins(30);

/// Where a blob lies once it is whole.
pub(super) fn path(cache: &Path, digest: &Digest) -> PathBuf {
    layout::blobs(cache).join(digest.hex())
}

/// Whether a blob of this length is there. Its content is held to its digest when it is used.
pub(super) fn has(cache: &Path, digest: &Digest, size: u64) -> bool {
    std::fs::symlink_metadata(path(cache, digest)).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

/// Gets a blob unless it is there.
pub(super) fn fetch(cache: &Path, client: &Client, digest: &Digest, size: u64, watch: &mut dyn FnMut(u64)) -> Result<(), ImageError> {
    if has(cache, digest, size) {
        watch(size);
        return Ok(());
    }
    let lock = lock::take(&layout::lock(cache, &format!("blob-{}", digest.hex()))?, WAIT)?;
    perform(Effect::Blob, |_| {
        if has(cache, digest, size) {
            return Ok(());
        }
        let partial = layout::partial_blobs(cache);
        create_private_dir(&partial)?;
        let partial = partial.join(digest.hex());
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&partial)
            .map_err(FsError::on("open", &partial))?;
        client.blob(digest, size, &mut file, watch)?;
        file.set_permissions(PermissionsExt::from_mode(0o444)).map_err(FsError::on("write-protect", &partial))?;
        file.sync_all().map_err(FsError::on("sync", &partial))?;
        let whole = path(cache, digest);
        std::fs::rename(&partial, &whole).map_err(FsError::on("publish", &whole))?;
        Ok::<_, ImageError>(sync_dir(&layout::blobs(cache))?)
    })?;
    // Nobody needs it for this blob again.
    let _ = lock.remove();
    watch(size);
    Ok(())
}

/// Keeps a small blob whose digest was compared.
pub(super) fn put(cache: &Path, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    if has(cache, digest, bytes.len() as u64) {
        return Ok(());
    }
    perform(Effect::Blob, |_| {
        create_private_dir(&layout::blobs(cache))?;
        Ok(fsx::write_atomic(&path(cache, digest), bytes, 0o444)?)
    })
}

/// Reads a small blob, and holds it to its digest.
pub(super) fn read(cache: &Path, digest: &Digest, size: u64) -> Result<Vec<u8>, ImageError> {
    let path = path(cache, digest);
    let mut bytes = Vec::new();
    File::open(&path).and_then(|file| file.take(size + 1).read_to_end(&mut bytes)).map_err(FsError::on("read", &path))?;
    if Digest::of(&bytes) == *digest {
        return Ok(bytes);
    }
    let odd = ImageError::Odd { path: path.clone(), what: format!("it does not have the digest {digest}") };
    // The next pull gets it anew.
    perform(Effect::Blob, |_| match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ImageError::Fs(FsError::on("remove", &path)(e))),
        _ => Ok(()),
    })?;
    Err(odd)
}
