//! `import`: the root of a file system, in a directory or a tar archive, becomes an image of one layer.
//!
//! ```text
//!   directory ─► walk, beneath its descriptor ─┐
//!   archive, standard input ───────────────────┴─► tmp/…/layer ─► plan ─► blobs/ ─► images/<digest>/ ─► by-reference/
//!                                                                 └─ whatever is wrong with it is known here: nothing has a name yet
//! ```
//!
//! An archive is kept as it came, packed or not; a directory becomes a tar that says nothing of the host it was on: the same tree is the
//! same image everywhere.

mod walk;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;
use smolvm_model::reference::Reference;
use smolvm_oci::Digest;
use smolvm_oci::digest::Hashing;
use smolvm_oci::document::{Config, MAX_BLOB, RunConfig, SingleLayer, Step, Top, Unread};
use smolvm_oci::layer::{EntryName, LayerWriter, Packing, decompress};
use smolvm_oci::rootfs::{Limits, Plan};
use smolvm_oci::tree::Tree;

use super::blobs;
use super::build::{Parts, Stored, write};
use super::pull::{Pulled, architecture, pointed};
use crate::effect::perform_once;
use crate::fsx::{FsError, create_private_dir, sync_dir};
use crate::image::error::ImageError;
use crate::image::guard;
use crate::image::layout;
use crate::image::progress::{Report, tell};
use crate::image::reference::of_manifest;
use crate::image::store::require_space;
use crate::image::workdir::Workdir;

pub use walk::{Skipped, SkippedWhy};

/// How long to wait for somebody who makes an image of the same name.
const BUILD_WAIT: Duration = Duration::from_mins(30);
const MIB: u64 = 1 << 20;

/// Where the root of a file system comes from.
pub enum Rootfs<'a> {
    /// A directory, or an archive, as it turns out to be.
    At(&'a Path),
    /// An archive that somebody sends.
    Stream(Box<dyn Read + Send + 'a>),
}

impl std::fmt::Debug for Rootfs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(path) => f.debug_tuple("At").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What the image says of itself.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// How it is run.
    pub run: RunConfig,
    /// How its layer came to be.
    pub created_by: String,
    /// A note.
    pub comment: Option<String>,
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The image.
    pub pulled: Pulled,
    /// What no image can have, and is not in it.
    pub skipped: Vec<Skipped>,
}

/// Why a file system cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Packed with something that no layer may be packed with.
    #[error("it is packed with {tool}")]
    Packing {
        /// The program that unpacks it.
        tool: &'static str,
    },
    /// An image in a file, not the root of a file system.
    #[error("it is the archive of an image, not of a file system")]
    IsImage,
    /// Nothing is in it.
    #[error("it has no files")]
    Empty,
    /// It has a name that layers keep for something else.
    #[error("{entry} has a name by which a layer would say that something is gone")]
    Whiteout {
        /// Which.
        entry: EntryName,
    },
    /// Somebody wrote to it meanwhile.
    #[error("{entry} was changed while it was read")]
    Changed {
        /// Which.
        entry: EntryName,
    },
    /// Deeper or longer than any path.
    #[error("{entry} is deeper than a path can be")]
    Deep {
        /// Which.
        entry: EntryName,
    },
    /// It cannot be read.
    #[error("{entry} cannot be read")]
    Read {
        /// Which.
        entry: EntryName,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A layer that lies in a directory of its own, and has no name yet.
struct Layer {
    path: PathBuf,
    digest: Digest,
    size: u64,
    packing: Packing,
}

/// Makes an image of it, and points a reference at that.
pub fn import(
    cache: &Path,
    rootfs: Rootfs<'_>,
    reference: &Reference,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<Imported, ImageError> {
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    let work = workdir_of(cache, reference)?;
    let (layer, skipped) = bring(cache, &work, rootfs, report)?;
    let pulled = make(cache, &work, &layer, reference, options, report)?;
    Ok(Imported { pulled, skipped })
}

/// The directory in which the image of a reference is made; what a killed maker of the same left goes first.
pub(in crate::image) fn workdir_of(cache: &Path, reference: &Reference) -> Result<Workdir, ImageError> {
    let name = Digest::of(reference.to_string().as_bytes());
    Workdir::once(cache, &format!("image-import-{}", &name.hex()[..16]), BUILD_WAIT)
}

fn bring(cache: &Path, work: &Workdir, rootfs: Rootfs<'_>, report: Report<'_>) -> Result<(Layer, Vec<Skipped>), ImageError> {
    let path = work.path().join("layer");
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(FsError::on("make", &path))?;
    let write = |source| ImageError::from(FsError::on("write", &path)(source));
    let mut out = BufWriter::with_capacity(1 << 18, Hashing::new(out));
    let skipped = match rootfs {
        Rootfs::At(from) if from.is_dir() => {
            tell(report, "image", "reading the directory", 0.0);
            let mut layer = LayerWriter::new(out);
            let skipped = walk::walk(from, cache, &mut layer)?;
            out = layer.end().map_err(write)?;
            skipped
        }
        Rootfs::At(from) => {
            tell(report, "image", "reading the archive", 0.0);
            let file = File::open(from).map_err(FsError::on("open", from))?;
            let size = file.metadata().map_err(FsError::on("read", from))?.len();
            require_space(cache, size / MIB + 16)?;
            copy(file, &mut out).map_err(FsError::on("copy", from))?;
            Vec::new()
        }
        Rootfs::Stream(stream) => {
            tell(report, "image", "reading the archive", 0.0);
            copy(stream, &mut out).map_err(write)?;
            Vec::new()
        }
    };
    let out = out.into_inner().map_err(|e| write(e.into_error()))?;
    let (digest, size) = out.finish();
    Ok((seen(path, digest, size)?, skipped))
}

fn copy(from: impl Read, out: &mut impl io::Write) -> io::Result<()> {
    let copied = io::copy(&mut from.take(MAX_BLOB + 1), out)?;
    if copied > MAX_BLOB { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
}

/// A layer that a tool left there.
pub(in crate::image) fn layer_of_tool(
    cache: &Path,
    work: &Workdir,
    path: PathBuf,
    reference: &Reference,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    let (digest, size) = File::open(&path).and_then(hashed).map_err(FsError::on("read", &path))?;
    make(cache, work, &seen(path, digest, size)?, reference, options, report)
}

fn hashed(stream: impl Read) -> io::Result<(Digest, u64)> {
    let mut hashing = Hashing::new(stream);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.finish())
}

fn seen(path: PathBuf, digest: Digest, size: u64) -> Result<Layer, ImageError> {
    let mut head = Vec::new();
    File::open(&path).and_then(|file| file.take(6).read_to_end(&mut head)).map_err(FsError::on("read", &path))?;
    match Packing::of(&head) {
        Packing::Foreign { tool } => Err(ImportError::Packing { tool }.into()),
        packing @ (Packing::Plain | Packing::Gzip | Packing::Zstd) => Ok(Layer { path, digest, size, packing }),
    }
}

/// From a layer to an image with a name. Nothing is published before all of the layer was seen.
fn make(
    cache: &Path,
    work: &Workdir,
    layer: &Layer,
    reference: &Reference,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    tell(report, "image", "reading the layer", 0.0);
    let limits = Limits::default();
    let unpacked = File::open(&layer.path).and_then(|file| hashed(decompress(file)?.take(limits.unpacked + 1)));
    let (diff_id, _) = unpacked.map_err(|source| ImportError::Read { entry: EntryName::of(b"the archive"), source })?;
    let step = Step { created_by: Some(options.created_by), comment: options.comment, ..Step::default() };
    let documents = SingleLayer {
        digest: &layer.digest,
        size: layer.size,
        packing: layer.packing,
        diff_id: &diff_id,
        architecture: architecture(),
        run: &options.run,
        step: &step,
    }
    .documents();
    let config = Config::read(&documents.config, 1)?;
    let digest = Digest::of(&documents.manifest);
    let known = of_manifest(cache, &digest)?.filter(|_| blobs::has(cache, &layer.digest, layer.size));
    if let Some(image) = known {
        return pointed(cache, reference, &image.digest, false);
    }
    let Top::Manifest(manifest) = (Unread { bytes: &documents.manifest, architecture: architecture() }).read()? else {
        return Err(ImportError::IsImage.into());
    };
    let unnamed = Stored { paths: vec![layer.path.clone()], ids: vec![diff_id] };
    let plan = Plan::of(&unnamed, limits, &mut |_| {})?;
    check(plan.tree())?;
    require_space(cache, plan.image_bytes() / MIB + 16)?;
    keep(cache, layer)?;
    blobs::put(cache, &Digest::of(&documents.config), &documents.config)?;
    blobs::put(cache, &digest, &documents.manifest)?;
    let stored = Stored { paths: vec![blobs::path(cache, &layer.digest)], ..unnamed };
    let image =
        write(cache, work, &reference.to_string(), Parts { digest: &digest, manifest: &manifest, config }, (&stored, &plan), report)?;
    pointed(cache, reference, &image, true)
}

/// What people take for the root of a file system, and is none.
fn check(tree: &Tree) -> Result<(), ImportError> {
    let has = |name: &[u8]| tree.child(Tree::ROOT, name).is_some();
    if has(b"index.json") && has(b"blobs") || has(b"manifest.json") && has(b"repositories") {
        return Err(ImportError::IsImage);
    }
    if tree.walk().len() == 1 { Err(ImportError::Empty) } else { Ok(()) }
}

/// Gives a layer its name among the blobs.
fn keep(cache: &Path, layer: &Layer) -> Result<(), ImageError> {
    if blobs::has(cache, &layer.digest, layer.size) {
        return Ok(());
    }
    // What was moved away cannot be moved again.
    Ok(perform_once(Effect::Blob, |_| {
        let protect = |file: File| {
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
            file.sync_all()
        };
        File::open(&layer.path).and_then(protect).map_err(FsError::on("sync", &layer.path))?;
        create_private_dir(&layout::blobs(cache))?;
        let whole = blobs::path(cache, &layer.digest);
        std::fs::rename(&layer.path, &whole).map_err(FsError::on("publish", &whole))?;
        sync_dir(&layout::blobs(cache))
    })?)
}
