//! `image save`: an image of a registry into an OCI layout in a tar file.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use smolvm_model::effect::Effect;
use smolvm_model::reference::Reference;
use smolvm_oci::Digest;
use smolvm_oci::archive;
use smolvm_oci::document::{MAX_MANIFEST, Unread};

use super::blobs;
use crate::effect::perform;
use crate::fsx::{FsError, sync_dir};
use crate::image::error::ImageError;
use crate::image::guard;
use crate::image::store::Image;
use crate::random;

/// Writes an image of a registry into an archive; the file has its name once it is whole.
pub fn save(cache: &Path, image: &Image, reference: &Reference, file: &Path) -> Result<u64, ImageError> {
    let origin = image.origin.as_ref().ok_or_else(|| ImageError::NotPulled { name: image.name.clone() })?;
    let blob = |digest: &Digest| {
        let path = blobs::path(cache, digest);
        let open = File::open(&path).map_err(FsError::on("open", &path))?;
        let size = open.metadata().map_err(FsError::on("read", &path))?.len();
        Ok::<_, FsError>((open, size))
    };
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    let manifest = blobs::read(cache, &origin.manifest, blob(&origin.manifest)?.1.min(MAX_MANIFEST))?;
    let said = Unread { bytes: &manifest, architecture: "" }.media_type()?;
    let reference = reference.pinned_to(origin.manifest.as_str());
    let directory = match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    // Nobody else can have put anything there.
    let suffix = random::bytes().map(u64::from_le_bytes).map_err(FsError::on("name a file beside", file))?;
    let temporary = directory.join(format!(".smolvm-{suffix:016x}.tmp"));
    let written = perform(Effect::Archive, |_| {
        let fresh = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&temporary);
        let out = fresh.map_err(FsError::on("make", &temporary))?;
        let mut out = BufWriter::with_capacity(1 << 18, out);
        let fail = |source| FsError::on("write", &temporary)(source);
        let (manifest, size) = blob(&origin.manifest)?;
        let index = archive::index(&reference.to_string(), reference.tag(), said, &origin.manifest, size);
        archive::begin(&mut out, &index).map_err(fail)?;
        archive::blob(&mut out, &origin.manifest, size, manifest).map_err(fail)?;
        let mut parts: Vec<&Digest> = origin.blobs().filter(|digest| **digest != origin.manifest).collect();
        // A layer that is there twice is one blob.
        parts.sort();
        parts.dedup();
        for digest in parts {
            let (content, size) = blob(digest)?;
            archive::blob(&mut out, digest, size, content).map_err(fail)?;
        }
        archive::end(&mut out).and_then(|()| out.flush()).map_err(fail)?;
        let bytes = out.get_ref().metadata().map_err(fail)?.len();
        // Whole, it may be read by whom the user lets read what programs write.
        out.get_ref().set_permissions(PermissionsExt::from_mode(0o666 & !umask())).map_err(fail)?;
        out.get_ref().sync_all().map_err(fail)?;
        std::fs::rename(&temporary, file).map_err(FsError::on("name", file))?;
        sync_dir(directory)?;
        Ok::<_, FsError>(bytes)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    Ok(written?)
}

/// The bits that new files do not get; where the kernel does not say, all that are not the owner's.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|bits| u32::from_str_radix(bits.trim(), 8).ok()).unwrap_or(0o077)
}
