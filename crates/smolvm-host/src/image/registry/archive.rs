//! Images in files: an OCI layout in a tar archive, loaded and saved.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use smolvm_model::effect::Effect;
use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Digest;
use smolvm_oci::archive::{self, Member, NAMES};
use smolvm_oci::digest::Hashing;
use smolvm_oci::document::{Descriptor, DocumentError, MAX_BLOB, Top, Unread};
use smolvm_oci::layer::{Layer, decompress};
use smolvm_oci::rootfs::RootfsError;

use super::blobs;
use super::pull::{Pulled, architecture, make};
use crate::effect::perform;
use crate::fsx::{FsError, create_private_dir, sync_dir};
use crate::image::error::ImageError;
use crate::image::layout;
use crate::image::progress::{Report, tell};
use crate::image::store::{Image, require_space};

/// What an archive is made known as, if the archive itself does not say.
pub fn load(cache: &Path, file: &Path, name: Option<&Reference>, report: Report<'_>) -> Result<Pulled, ImageError> {
    let open = File::open(file).map_err(FsError::on("open", file))?;
    let size = open.metadata().map_err(FsError::on("read", file))?.len();
    require_space(cache, (size >> 20) + 16)?;
    tell(report, "image", "reading the archive", 0.0);
    let index = take_apart(cache, file, open)?;
    let descriptor = match (Unread { bytes: &index, architecture: architecture() }).read()? {
        Top::Index(descriptor) => descriptor,
        Top::Manifest(_) => return Err(DocumentError::Kind { media_type: "an archive without an index".to_owned() }.into()),
    };
    let named = || NAMES.iter().find_map(|key| full_name(descriptor.annotations.get(*key)?.as_str()));
    let reference = name.cloned().or_else(named).ok_or_else(|| ImageError::Nameless { path: file.to_owned() })?;
    let (digest, manifest) = inner(cache, descriptor)?;
    make(cache, &reference, &digest, &manifest, report)
}

/// A name that says where the image is from; a bare tag does not.
fn full_name(text: &str) -> Option<Reference> {
    Reference::parse(text, &Registry::default()).ok().filter(|_| text.contains('/'))
}

/// The manifest a descriptor leads to, by way of one more index if there is one.
fn inner(cache: &Path, descriptor: Descriptor) -> Result<(Digest, smolvm_oci::document::Manifest), ImageError> {
    let mut descriptor = descriptor;
    for _ in 0..2 {
        let bytes = blobs::read(cache, &descriptor.digest, descriptor.size)?;
        match (Unread { bytes: &bytes, architecture: architecture() }).read()? {
            Top::Manifest(manifest) => return Ok((descriptor.digest, manifest)),
            Top::Index(next) => descriptor = next,
        }
    }
    Err(DocumentError::Kind { media_type: descriptor.media_type }.into())
}

/// Puts every blob of an archive into the store; gives back its index.
fn take_apart(cache: &Path, file: &Path, open: File) -> Result<Vec<u8>, ImageError> {
    let unreadable = |source| ImageError::Rootfs(RootfsError::Layer { layer: 0, source });
    let mut archive = Layer::new(decompress(open).map_err(FsError::on("read", file))?);
    let mut index = None;
    while let Some(member) = archive::next(&mut archive).map_err(unreadable)? {
        match member {
            Member::Index(bytes) => index = Some(bytes),
            Member::Blob { digest, size } if size > MAX_BLOB => return Err(DocumentError::BlobSize { digest, size }.into()),
            Member::Blob { digest, size } if blobs::has(cache, &digest, size) => {}
            Member::Blob { digest, size } => keep(cache, &digest, size, &mut archive)?,
        }
    }
    index.ok_or_else(|| DocumentError::Kind { media_type: "an archive without an index".to_owned() }.into())
}

/// Writes a blob and gives it its name once its digest was compared.
fn keep<R: Read>(cache: &Path, digest: &Digest, size: u64, archive: &mut Layer<R>) -> Result<(), ImageError> {
    // Done twice there would be nothing left to read.
    crate::effect::perform_once(Effect::Blob, |_| {
        let partial = layout::partial_blobs(cache);
        create_private_dir(&partial)?;
        let partial = partial.join(format!("{}.load", digest.hex()));
        let out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o444)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&partial)
            .map_err(FsError::on("make", &partial))?;
        let mut hashing = Hashing::new(&out);
        let copied = io::copy(&mut archive.by_ref().take(size), &mut hashing).map_err(FsError::on("write", &partial))?;
        let (actual, _) = hashing.finish();
        if actual != *digest || copied != size {
            let _ = std::fs::remove_file(&partial);
            let what = format!("it has {actual} in the place of {digest}");
            return Err(ImageError::Odd { path: partial, what });
        }
        out.sync_all().map_err(FsError::on("sync", &partial))?;
        let whole = blobs::path(cache, digest);
        std::fs::rename(&partial, &whole).map_err(FsError::on("publish", &whole))?;
        Ok(sync_dir(&layout::blobs(cache))?)
    })
}

/// Writes an image of a registry into an archive; the file has its name once it is whole.
pub fn save(cache: &Path, image: &Image, reference: &Reference, file: &Path) -> Result<u64, ImageError> {
    let origin = image.origin.as_ref().ok_or_else(|| ImageError::NotPulled { name: image.name.clone() })?;
    let blob = |digest: &Digest| {
        let path = blobs::path(cache, digest);
        let open = File::open(&path).map_err(FsError::on("open", &path))?;
        let size = open.metadata().map_err(FsError::on("read", &path))?.len();
        Ok::<_, FsError>((open, size))
    };
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = file.with_file_name(name);
    let written = perform(Effect::Archive, |_| {
        let out = File::create(&temporary).map_err(FsError::on("make", &temporary))?;
        let mut out = BufWriter::with_capacity(1 << 18, out);
        let fail = |source| FsError::on("write", &temporary)(source);
        let (manifest, size) = blob(&origin.manifest)?;
        let index = archive::index(&reference.to_string(), reference.tag(), &origin.manifest, size);
        archive::begin(&mut out, &index).map_err(fail)?;
        archive::blob(&mut out, &origin.manifest, size, manifest).map_err(fail)?;
        let mut parts: Vec<&Digest> = std::iter::once(&origin.config).chain(origin.layers.iter().map(|layer| &layer.digest)).collect();
        // A layer that is there twice is one blob.
        parts.sort();
        parts.dedup();
        for digest in parts {
            let (content, size) = blob(digest)?;
            archive::blob(&mut out, digest, size, content).map_err(fail)?;
        }
        archive::end(&mut out).and_then(|()| out.flush()).map_err(fail)?;
        let bytes = out.get_ref().metadata().map_err(fail)?.len();
        out.get_ref().sync_all().map_err(fail)?;
        std::fs::rename(&temporary, file).map_err(FsError::on("name", file))?;
        Ok::<_, FsError>(bytes)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    Ok(written?)
}
