//! Parts of images by their digests: fetched, or put there; checked when they are read.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;
use smolvm_oci::Digest;
use smolvm_oci::digest::Hashing;
use smolvm_oci::document::Descriptor;

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

/// Who is told how much of a blob has come.
pub(super) type Watch<'a> = &'a mut dyn FnMut(u64);

/// Gets a blob unless it is there; `get` puts all of it into a file that may have its beginning already.
pub(super) fn fetch(
    cache: &Path,
    blob: &Descriptor,
    watch: Watch<'_>,
    mut get: impl FnMut(&mut File, Watch<'_>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let Descriptor { digest, size, .. } = blob;
    let size = *size;
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
        let mut file = begin(&partial).map_err(FsError::on("open", &partial))?;
        get(&mut file, watch)?;
        Ok::<_, ImageError>(name(cache, digest, &partial, &file)?)
    })?;
    // Nobody needs it for this blob again.
    let _ = lock.remove();
    watch(size);
    Ok(())
}

/// Opens what has come of a blob, or makes it; its lock is held.
fn begin(partial: &Path) -> std::io::Result<File> {
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(partial);
    match open() {
        // Whoever wrote it was killed when it was write-protected and had no name yet.
        Err(e) if e.kind() == ErrorKind::PermissionDenied => std::fs::remove_file(partial).and_then(|()| open()),
        opened => opened,
    }
}

/// Gives a whole file its final name; nobody writes to it any more.
fn name(cache: &Path, digest: &Digest, from: &Path, file: &File) -> Result<(), FsError> {
    file.sync_all().map_err(FsError::on("sync", from))?;
    file.set_permissions(PermissionsExt::from_mode(0o444)).map_err(FsError::on("write-protect", from))?;
    let whole = path(cache, digest);
    std::fs::rename(from, &whole).map_err(FsError::on("publish", &whole))?;
    sync_dir(&layout::blobs(cache))
}

/// Takes a file whose digest was compared, and that nobody else can know, among the blobs.
pub(super) fn publish(cache: &Path, digest: &Digest, from: &Path) -> Result<(), ImageError> {
    let lock = lock::take(&layout::lock(cache, &format!("blob-{}", digest.hex()))?, WAIT)?;
    // What was moved away cannot be moved again.
    crate::effect::perform_once(Effect::Blob, |_| {
        create_private_dir(&layout::blobs(cache))?;
        let file = File::open(from).map_err(FsError::on("open", from))?;
        name(cache, digest, from, &file)
    })?;
    let _ = lock.remove();
    Ok(())
}

/// Whether a blob is there and is what its name says; reads all of it.
pub(super) fn is_whole(cache: &Path, digest: &Digest, size: u64) -> Result<bool, ImageError> {
    if !has(cache, digest, size) {
        return Ok(false);
    }
    let path = path(cache, digest);
    let mut hashing = Hashing::new(std::io::sink());
    File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hashing)).map_err(FsError::on("read", &path))?;
    Ok(hashing.finish().0 == *digest)
}

/// Removes those of these blobs that are not what their names say; says whether any is missing now.
pub(super) fn drop_damaged(cache: &Path, wanted: &[&Descriptor]) -> Result<bool, ImageError> {
    let mut missing = false;
    for blob in wanted {
        if is_whole(cache, &blob.digest, blob.size)? {
            continue;
        }
        missing = true;
        drop_blob(&path(cache, &blob.digest))?;
    }
    Ok(missing)
}

fn drop_blob(path: &Path) -> Result<(), ImageError> {
    perform(Effect::Blob, |_| match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(ImageError::Fs(FsError::on("remove", path)(e))),
        _ => Ok(()),
    })
}

/// Keeps a small blob whose digest was compared.
pub(super) fn put(cache: &Path, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
    if is_whole(cache, digest, bytes.len() as u64)? {
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
    let file = File::open(&path).map_err(FsError::on("open", &path))?;
    let length = file.metadata().map_err(FsError::on("read", &path))?.len();
    if length != size {
        // Who says that may be wrong as well: nothing is removed.
        return Err(ImageError::Odd { path, what: format!("it has {length} bytes, and {size} were said") });
    }
    file.take(size).read_to_end(&mut bytes).map_err(FsError::on("read", &path))?;
    if Digest::of(&bytes) == *digest {
        return Ok(bytes);
    }
    // The next pull gets it anew.
    drop_blob(&path)?;
    Err(ImageError::Odd { path, what: format!("it does not have the digest {digest}") })
}
