//! `image load`: an image from an OCI layout in a tar file, which may come from anybody.
//!
//! ```text
//!   archive ─► tmp/image-load-…/<digest> (held to its digest) ─► index ─► manifest ─► what it needs ─► blobs/<digest>
//!                                                                                     all else goes
//! ```
//!
//! Invariants: nothing of an archive is among the blobs before it is known to be part of the image; a name that names its content leads to
//! that content; an archive takes no more room than layers may.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;
use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Capped;
use smolvm_oci::archive::{self, Member, NAMES};
use smolvm_oci::digest::Hashing;
use smolvm_oci::document::{Descriptor, DocumentError, MAX_BLOB, Manifest, Top, Unread};
use smolvm_oci::layer::{Layer, LayerError, decompress};
use smolvm_oci::rootfs::Limits;

use super::blobs;
use super::pull::{Pulled, architecture, make};
use crate::effect::perform_once;
use crate::fsx::FsError;
use crate::image::error::ImageError;
use crate::image::progress::{Report, tell};
use crate::image::reference::resolve_reference;
use crate::image::store::require_space;
use crate::image::workdir::Workdir;
use crate::image::{Digest as ImageDigest, guard, remove};
use crate::random;

type Digest = smolvm_oci::Digest;

/// Most blobs of an archive: an index of a thousand images, and ten of each.
const MAX_BLOBS: usize = 10_000;

/// Why an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read to its end, or is no archive.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// It unpacks to more than is taken.
    #[error("{} unpacks to more than {limit} bytes", path.display())]
    TooLong {
        /// The archive.
        path: PathBuf,
        /// Bytes that are taken.
        limit: u64,
    },
    /// A blob is not what its name says.
    #[error("{} has {actual} in the place of {expected}", path.display())]
    Content {
        /// The archive.
        path: PathBuf,
        /// What the name says.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Its index or manifest says another length than the blob has.
    #[error("{} says {said} bytes of {digest}, which has {actual}", path.display())]
    Length {
        /// The archive.
        path: PathBuf,
        /// The blob.
        digest: Digest,
        /// What is said.
        said: u64,
        /// What it has.
        actual: u64,
    },
    /// A part of the image is not in it, and not here.
    #[error("{} does not have {digest}, which its image needs", path.display())]
    Missing {
        /// The archive.
        path: PathBuf,
        /// The blob.
        digest: Digest,
    },
    /// The name says another content than the archive has.
    #[error("the name {name} is of another image: the archive has {actual}")]
    OtherContent {
        /// The name.
        name: Reference,
        /// The manifest of the archive.
        actual: Digest,
    },
}

/// What a load came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The image.
    pub pulled: Pulled,
    /// What its name led to before, if that was another image.
    pub replaced: Option<ImageDigest>,
}

/// Makes the image of an archive, under this name or the one that the archive says.
pub fn load(cache: &Path, file: &Path, name: Option<&Reference>, report: Report<'_>) -> Result<Loaded, ImageError> {
    load_within(cache, file, name, Limits::default(), report)
}

/// The same with other limits.
pub(super) fn load_within(
    cache: &Path,
    file: &Path,
    name: Option<&Reference>,
    limits: Limits,
    report: Report<'_>,
) -> Result<Loaded, ImageError> {
    let open = File::open(file).map_err(FsError::on("open", file))?;
    let size = open.metadata().map_err(FsError::on("read", file))?.len();
    require_space(cache, (size >> 20) + 16)?;
    // What was unpacked by loads that were killed. What cannot be swept is in no load's way; `prune` tells it.
    let _ = remove::sweep(cache);
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    let suffix = random::bytes().map(u64::from_le_bytes).map_err(FsError::on("name a directory in", cache))?;
    let work = Workdir::once(cache, &format!("image-load-{suffix:016x}"), Duration::ZERO)?;
    tell(report, "image", "reading the archive", 0.0);
    let directory = work.path();
    let unpacked = Unpacked::of(cache, &directory, file, limits, open)?;
    let descriptor = match (Unread { bytes: &unpacked.index, architecture: architecture() }).read()? {
        Top::Index(descriptor) => descriptor,
        Top::Manifest(_) => return Err(DocumentError::Kind { media_type: "an archive without an index".to_owned() }.into()),
    };
    let named = || NAMES.iter().find_map(|key| full_name(descriptor.annotations.get(*key)?.as_str()));
    let reference = name.cloned().or_else(named).ok_or_else(|| ImageError::Nameless { path: file.to_owned() })?;
    let Inner { digest, size, manifest, way } = unpacked.inner(descriptor)?;
    if reference.digest().is_some_and(|wanted| !way.iter().any(|passed| passed.as_str() == wanted)) {
        return Err(ArchiveError::OtherContent { name: reference, actual: digest }.into());
    }
    unpacked.publish(&digest, size)?;
    for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
        unpacked.publish(&blob.digest, blob.size)?;
    }
    let before = resolve_reference(cache, &reference).ok().flatten().map(|image| image.digest);
    let pulled = make(cache, &reference, &digest, &manifest, report)?;
    Ok(Loaded { replaced: before.filter(|before| *before != pulled.image.digest), pulled })
}

/// A name that says where the image is from; a bare tag does not.
fn full_name(text: &str) -> Option<Reference> {
    Reference::parse(text, &Registry::default()).ok().filter(|_| text.contains('/'))
}

/// The image of an archive, and by way of which digests it was found, its own included.
struct Inner {
    digest: Digest,
    size: u64,
    manifest: Manifest,
    way: Vec<Digest>,
}

/// An archive's index, and those of its blobs that are not in the store, in a directory of their own.
struct Unpacked<'a> {
    cache: &'a Path,
    work: &'a Path,
    file: &'a Path,
    index: Vec<u8>,
    blobs: BTreeMap<Digest, u64>,
}

impl<'a> Unpacked<'a> {
    fn of(cache: &'a Path, work: &'a Path, file: &'a Path, limits: Limits, open: File) -> Result<Self, ImageError> {
        let unreadable = |source| match source {
            LayerError::Read { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
                ArchiveError::TooLong { path: file.to_owned(), limit: limits.unpacked }
            }
            source => ArchiveError::Unreadable { path: file.to_owned(), source },
        };
        let stream = decompress(open).map_err(FsError::on("read", file))?;
        let mut archive = Layer::new(Capped::new(stream, limits.unpacked));
        let mut unpacked = Self { cache, work, file, index: Vec::new(), blobs: BTreeMap::new() };
        while let Some(member) = archive::next(&mut archive).map_err(unreadable)? {
            match member {
                Member::Index(bytes) => unpacked.index = bytes,
                Member::Blob { digest, size } if size > MAX_BLOB => return Err(DocumentError::BlobSize { digest, size }.into()),
                Member::Blob { digest, size } if unpacked.blobs.contains_key(&digest) || blobs::is_whole(cache, &digest, size)? => {}
                Member::Blob { .. } if unpacked.blobs.len() >= MAX_BLOBS => {
                    return Err(DocumentError::TooMany { what: "archive", count: MAX_BLOBS + 1 }.into());
                }
                Member::Blob { digest, size } => {
                    unpacked.keep(&digest, size, &mut archive, limits)?;
                    unpacked.blobs.insert(digest, size);
                }
            }
        }
        if unpacked.index.is_empty() {
            return Err(DocumentError::Kind { media_type: "an archive without an index".to_owned() }.into());
        }
        Ok(unpacked)
    }

    /// Writes a blob where nobody else looks, and holds it to its digest.
    fn keep<R: Read>(&self, digest: &Digest, size: u64, archive: &mut Layer<R>, limits: Limits) -> Result<(), ImageError> {
        require_space(self.cache, (size >> 20) + 16)?;
        // Done twice there would be nothing left to read.
        perform_once(Effect::Blob, |_| {
            let path = self.work.join(digest.hex());
            let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(FsError::on("make", &path))?;
            let mut hashing = Hashing::new(&out);
            let copied = io::copy(&mut archive.by_ref().take(size), &mut hashing).map_err(|source| match source.kind() {
                io::ErrorKind::FileTooLarge => {
                    ImageError::from(ArchiveError::TooLong { path: self.file.to_owned(), limit: limits.unpacked })
                }
                _ => FsError::on("write", &path)(source).into(),
            })?;
            let (actual, _) = hashing.finish();
            if actual != *digest || copied != size {
                return Err(ArchiveError::Content { path: self.file.to_owned(), expected: digest.clone(), actual }.into());
            }
            Ok(())
        })
    }

    /// The manifest a descriptor leads to, by way of one more index if there is one.
    fn inner(&self, descriptor: Descriptor) -> Result<Inner, ImageError> {
        let (mut descriptor, mut way) = (descriptor, Vec::new());
        for _ in 0..2 {
            let bytes = self.read(&descriptor.digest, descriptor.size)?;
            way.push(descriptor.digest.clone());
            match (Unread { bytes: &bytes, architecture: architecture() }).read()? {
                Top::Manifest(manifest) => return Ok(Inner { digest: descriptor.digest, size: descriptor.size, manifest, way }),
                Top::Index(next) => descriptor = next,
            }
        }
        Err(DocumentError::Kind { media_type: descriptor.media_type }.into())
    }

    /// A small blob, of this archive or of the store.
    fn read(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ImageError> {
        if !self.has(digest, size)? {
            return blobs::read(self.cache, digest, size);
        }
        let path = self.work.join(digest.hex());
        std::fs::read(&path).map_err(|source| FsError::on("read", &path)(source).into())
    }

    /// Takes a part of the image among the blobs.
    fn publish(&self, digest: &Digest, size: u64) -> Result<(), ImageError> {
        let from = self.work.join(digest.hex());
        // A layer that is there twice was moved the first time.
        if self.has(digest, size)? && from.exists() {
            return blobs::publish(self.cache, digest, &from);
        }
        if blobs::has(self.cache, digest, size) {
            return Ok(());
        }
        Err(ArchiveError::Missing { path: self.file.to_owned(), digest: digest.clone() }.into())
    }

    /// Whether the archive brought a blob that was not here.
    fn has(&self, digest: &Digest, said: u64) -> Result<bool, ImageError> {
        match self.blobs.get(digest) {
            Some(actual) if *actual != said => {
                Err(ArchiveError::Length { path: self.file.to_owned(), digest: digest.clone(), said, actual: *actual }.into())
            }
            found => Ok(found.is_some()),
        }
    }
}
