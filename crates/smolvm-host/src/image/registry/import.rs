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

mod error;
mod room;
mod walk;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::reference::Reference;
use smolvm_oci::digest::Hashing;
use smolvm_oci::document::{Config, MAX_BLOB, Made, RunConfig, SingleLayer, Step, Top, Unread};
use smolvm_oci::layer::{EntryName, LayerWriter, Packing, decompress};
use smolvm_oci::rootfs::{Limits, Plan};
use smolvm_oci::tree::Tree;
use smolvm_oci::{Capped, Digest};

use self::error::{ARCHIVE, not_taken};
use self::room::{MIB, Room};
use self::walk::Target;
use super::blobs;
use super::build::{Parts, Stored, write};
use super::pull::{Pulled, architecture, pointed};
use crate::fsx::FsError;
use crate::image::error::ImageError;
use crate::image::guard;
use crate::image::progress::{Report, tell};
use crate::image::reference::of_manifest;
use crate::image::store::require_space;
use crate::image::workdir::Workdir;

pub use error::ImportError;
pub use walk::{Skipped, SkippedWhy};

/// How long to wait for somebody who makes an image of the same name.
const BUILD_WAIT: Duration = Duration::from_mins(30);

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

/// How much is taken.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Bytes of the layer, as it is kept.
    layer: u64,
    /// What may come of it.
    rootfs: Limits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { layer: MAX_BLOB, rootfs: Limits::default() }
    }
}

/// A layer that lies in a directory of its own, and has no name yet.
struct Layer {
    path: PathBuf,
    digest: Digest,
    size: u64,
    packing: Packing,
    /// Of what it unpacks to.
    diff_id: Digest,
}

/// Makes an image of it, and points a reference at that.
pub fn import(
    cache: &Path,
    rootfs: Rootfs<'_>,
    reference: &Reference,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<Imported, ImageError> {
    import_within(cache, rootfs, reference, options, Bounds::default(), report)
}

fn import_within(
    cache: &Path,
    rootfs: Rootfs<'_>,
    reference: &Reference,
    options: ImportOptions,
    bounds: Bounds,
    report: Report<'_>,
) -> Result<Imported, ImageError> {
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    let work = workdir_of(cache, reference)?;
    let (layer, skipped) = bring(cache, &work, rootfs, bounds, report)?;
    let pulled = make((cache, &work), &layer, reference, options, bounds.rootfs, report)?;
    Ok(Imported { pulled, skipped })
}

/// The directory in which the image of a reference is made; what a killed maker of the same left goes first.
pub(in crate::image) fn workdir_of(cache: &Path, reference: &Reference) -> Result<Workdir, ImageError> {
    let name = Digest::of(reference.to_string().as_bytes());
    Workdir::once(cache, &format!("image-import-{}", &name.hex()[..16]), BUILD_WAIT)
}

fn bring(
    cache: &Path,
    work: &Workdir,
    rootfs: Rootfs<'_>,
    bounds: Bounds,
    report: Report<'_>,
) -> Result<(Layer, Vec<Skipped>), ImageError> {
    let path = work.path().join("layer");
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(FsError::on("make", &path))?;
    let mut out = Capped::new(BufWriter::with_capacity(1 << 18, Hashing::new(out)), bounds.layer);
    let mut skipped = Vec::new();
    match rootfs {
        Rootfs::At(from) if from.is_dir() => {
            tell(report, "image", "reading the directory", 0.0);
            let mut layer = LayerWriter::new(out);
            skipped = walk::walk(from, Target { cache, layer: &path }, &mut layer)?;
            let whole = EntryName::of(b"the directory");
            out = layer.end().map_err(|e| not_taken(e, &whole, bounds.layer, FsError::on("write", &path)))?;
        }
        Rootfs::At(from) => {
            tell(report, "image", "reading the archive", 0.0);
            let file = File::open(from).map_err(FsError::on("open", from))?;
            let size = file.metadata().map_err(FsError::on("read", from))?.len();
            if size > bounds.layer {
                return Err(ImportError::TooLong { entry: EntryName::of(ARCHIVE), limit: bounds.layer }.into());
            }
            let mut room = Room::of(cache);
            // What is no regular file does not say how long it is.
            room.ask(0, size)?;
            copy(file, &mut out, room, FsError::on("copy", from))?;
        }
        Rootfs::Stream(stream) => {
            tell(report, "image", "reading the archive", 0.0);
            copy(stream, &mut out, Room::of(cache), FsError::on("write", &path))?;
        }
    }
    let out = out.into_inner().into_inner().map_err(|e| FsError::on("write", &path)(e.into_error()))?;
    let (digest, size) = out.finish();
    tell(report, "image", "reading the layer", 0.0);
    Ok((seen(path, digest, size, bounds.rootfs)?, skipped))
}

fn copy<W: Write>(
    mut from: impl Read,
    out: &mut Capped<W>,
    mut room: Room<'_>,
    host: impl FnOnce(io::Error) -> FsError,
) -> Result<(), ImageError> {
    let limit = out.limit();
    loop {
        room.ask(out.passed(), 0)?;
        match io::copy(&mut from.by_ref().take(MIB), out) {
            Ok(MIB) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(not_taken(e, &EntryName::of(ARCHIVE), limit, host)),
        }
    }
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
    tell(report, "image", "reading the layer", 0.0);
    let (digest, size) = File::open(&path).and_then(hashed).map_err(FsError::on("read", &path))?;
    let limits = Limits::default();
    make((cache, work), &seen(path, digest, size, limits)?, reference, options, limits, report)
}

fn hashed(stream: impl Read) -> io::Result<(Digest, u64)> {
    let mut hashing = Hashing::new(stream);
    io::copy(&mut hashing, &mut io::sink())?;
    Ok(hashing.finish())
}

/// What a layer is packed with, and what it unpacks to; no further than that may be.
fn seen(path: PathBuf, digest: Digest, size: u64, limits: Limits) -> Result<Layer, ImageError> {
    let mut head = Vec::new();
    File::open(&path).and_then(|file| file.take(6).read_to_end(&mut head)).map_err(FsError::on("read", &path))?;
    let too_much = ImportError::Unpacked { limit: limits.unpacked };
    let packing = Packing::of(&head);
    let diff_id = match packing {
        Packing::Foreign { tool } => return Err(ImportError::Packing { tool }.into()),
        Packing::Plain if size > limits.unpacked => return Err(too_much.into()),
        Packing::Plain => digest.clone(),
        Packing::Gzip | Packing::Zstd => {
            let unpacked = File::open(&path).and_then(|file| hashed(Capped::new(decompress(file)?, limits.unpacked)));
            let failed = |source: io::Error| match source.kind() {
                ErrorKind::FileTooLarge => too_much,
                _ => ImportError::Read { entry: EntryName::of(ARCHIVE), source },
            };
            unpacked.map_err(failed)?.0
        }
    };
    Ok(Layer { path, digest, size, packing, diff_id })
}

/// From a layer to an image with a name. Nothing is published before all of the layer was seen: here, or when it became an image before.
fn make(
    (cache, work): (&Path, &Workdir),
    layer: &Layer,
    reference: &Reference,
    options: ImportOptions,
    limits: Limits,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    let step = Step { created_by: Some(options.created_by), comment: options.comment, ..Step::default() };
    let documents = SingleLayer {
        digest: &layer.digest,
        size: layer.size,
        packing: layer.packing,
        diff_id: &layer.diff_id,
        architecture: architecture(),
        run: &options.run,
        step: &step,
    }
    .documents();
    let config = Config::read(&documents.config, 1)?;
    let digest = Digest::of(&documents.manifest);
    if let Some(image) = of_manifest(cache, &digest)? {
        keep(cache, layer, &documents)?;
        return pointed(cache, reference, &image.digest, false);
    }
    let Top::Manifest(manifest) = (Unread { bytes: &documents.manifest, architecture: architecture() }).read()? else {
        return Err(ImportError::IsImage.into());
    };
    let unnamed = Stored { paths: vec![layer.path.clone()], ids: vec![layer.diff_id.clone()] };
    let plan = Plan::of(&unnamed, limits, &mut |_| {})?;
    check(plan.tree())?;
    require_space(cache, plan.image_bytes() / MIB + 16)?;
    keep(cache, layer, &documents)?;
    let stored = Stored { paths: vec![blobs::path(cache, &layer.digest)], ..unnamed };
    let image =
        write(cache, work, &reference.to_string(), Parts { digest: &digest, manifest: &manifest, config }, (&stored, &plan), report)?;
    pointed(cache, reference, &image, true)
}

/// Gives all of it its names among the blobs, unless it is there. What is damaged there is replaced: nobody else could.
fn keep(cache: &Path, layer: &Layer, documents: &Made) -> Result<(), ImageError> {
    if !blobs::is_whole(cache, &layer.digest, layer.size)? {
        blobs::publish(cache, &layer.digest, &layer.path)?;
    }
    blobs::put(cache, &Digest::of(&documents.config), &documents.config)?;
    blobs::put(cache, &Digest::of(&documents.manifest), &documents.manifest)
}

/// What people take for the root of a file system, and is none.
fn check(tree: &Tree) -> Result<(), ImportError> {
    let has = |name: &[u8]| tree.child(Tree::ROOT, name).is_some();
    if has(b"index.json") && has(b"blobs") || has(b"manifest.json") && has(b"repositories") {
        return Err(ImportError::IsImage);
    }
    if tree.walk().len() == 1 { Err(ImportError::Empty) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
