//! From blobs to an image: the file system of the layers, published under its digest.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use smolvm_oci::Digest;
use smolvm_oci::document::{Config, Manifest};
use smolvm_oci::rootfs::{Layers, Limits, Plan};

use super::blobs;
use crate::fsx::{FsError, create_private_dir};
use crate::image::error::ImageError;
use crate::image::progress::{Report, tell};
use crate::image::reference::note_manifest;
use crate::image::store::{self, LayerBlob, Origin, require_space};
use crate::image::workdir::Workdir;

/// Memory of guests whose image does not say: as `debian` has it.
const MEMORY_MIB: u32 = 512;
const MIB: u64 = 1 << 20;

/// What an image is made of; every part of it is in the store.
pub(super) struct Parts<'a> {
    pub(super) digest: &'a Digest,
    pub(super) manifest: &'a Manifest,
    pub(super) config: Config,
}

/// Layers that lie in files.
pub(super) struct Stored {
    pub(super) paths: Vec<PathBuf>,
    pub(super) ids: Vec<Digest>,
}

impl Layers for Stored {
    fn diff_ids(&self) -> &[Digest] {
        &self.ids
    }

    fn open(&self, layer: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(File::open(&self.paths[layer])?))
    }
}

/// Makes the image and writes down what it was made of; it has no name yet.
pub(super) fn build(
    cache: &Path,
    work: &Workdir,
    name: &str,
    parts: Parts<'_>,
    report: Report<'_>,
) -> Result<super::super::Digest, ImageError> {
    let layers = Stored {
        paths: parts.manifest.layers.iter().map(|layer| blobs::path(cache, &layer.digest)).collect(),
        ids: parts.config.diff_ids.clone(),
    };
    tell(report, "image", "reading the layers", 0.0);
    let plan = Plan::of(&layers, Limits::default(), &mut |_| {})?;
    require_space(cache, plan.image_bytes() / MIB + 16)?;
    write(cache, work, name, parts, (&layers, &plan), report)
}

/// The same of layers that were read already.
pub(super) fn write(
    cache: &Path,
    work: &Workdir,
    name: &str,
    parts: Parts<'_>,
    (layers, plan): (&Stored, &Plan),
    report: Report<'_>,
) -> Result<super::super::Digest, ImageError> {
    let out = work.path().join("out");
    create_private_dir(&out)?;
    let path = out.join("image.ext4");
    // What a try before this one wrote until it met a damaged layer.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(FsError::on("remove", &path)(e).into()),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(FsError::on("make", &path))?;
    let total = (plan.unpacked() * 2).max(1);
    plan.write(layers, parts.digest, &file, &mut |done| tell(report, "image", "writing the file system", part(done, total)))?;
    drop(file);
    let Config { architecture, created, run, history, .. } = parts.config;
    let layers = parts.manifest.layers.iter().map(|layer| LayerBlob { digest: layer.digest.clone(), size_bytes: layer.size }).collect();
    let env: BTreeMap<String, String> = run.env.clone();
    let config = parts.manifest.config.digest.clone();
    let origin = Origin { manifest: parts.digest.clone(), config, layers, architecture, created, run, history };
    let digest = store::publish_unnamed(cache, &out, name, store::Config { default_memory_mib: MEMORY_MIB, env, origin: Some(origin) })?;
    note_manifest(cache, parts.digest, &digest)?;
    Ok(digest)
}

/// How much of something is done; for people, so no more exact than that.
#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
pub(super) fn part(done: u64, total: u64) -> f32 {
    done as f32 / total.max(1) as f32
}
