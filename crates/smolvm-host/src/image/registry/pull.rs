//! `pull`: from a name to an image that is here.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use smolvm_model::reference::Reference;
use smolvm_oci::Digest;
use smolvm_oci::document::{Config, Descriptor, DocumentError, Manifest, Top, Unread};
use smolvm_oci::registry::Client;
use smolvm_oci::rootfs::RootfsError;

use super::blobs;
use super::build::{Parts, build, part};
use super::holders::{Holders, PullOptions};
use crate::image::error::ImageError;
use crate::image::guard;
use crate::image::progress::{Report, tell};
use crate::image::reference::{name_image, of_manifest};
use crate::image::store::{self, Image, require_space};
use crate::image::workdir::Workdir;

/// Layers that come at the same time.
const AT_ONCE: usize = 4;
/// How long to wait for somebody who pulls the same image.
const BUILD_WAIT: Duration = Duration::from_mins(30);
const REPORT_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it was made just now; else only its name was pointed at it.
    pub made: bool,
}

/// Pulls what a reference means now, and points it at that.
pub fn pull(cache: &Path, reference: &Reference, options: &PullOptions, report: Report<'_>) -> Result<Pulled, ImageError> {
    let holders = Holders::of(reference, options);
    let (bytes, digest, manifest) = holders.ask(|registry, client| {
        tell(report, "image", format!("asking {registry}"), 0.0);
        manifest(client, reference.wanted())
    })?;
    // From here until a name leads to it.
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    if let Some(image) = of_manifest(cache, &digest)? {
        return pointed(cache, reference, &image.digest, false);
    }
    let work = Workdir::once(cache, &format!("image-{}", &digest.hex()[..16]), BUILD_WAIT)?;
    // Whoever had the lock before may have made it.
    if let Some(image) = of_manifest(cache, &digest)? {
        return pointed(cache, reference, &image.digest, false);
    }
    let wanted: Vec<&Descriptor> = std::iter::once(&manifest.config).chain(&manifest.layers).collect();
    let missing = wanted.iter().filter(|blob| !blobs::has(cache, &blob.digest, blob.size)).map(|blob| blob.size).sum::<u64>();
    require_space(cache, missing / MIB + 16)?;
    fetch_all(cache, &holders, &wanted, report)?;
    blobs::put(cache, &digest, &bytes)?;
    match finish(cache, &work, reference, &digest, &manifest, report) {
        // A blob that is here has only its length to speak for it until it is read.
        Err(e) if is_damage(&e) && blobs::drop_damaged(cache, &wanted)? => {
            fetch_all(cache, &holders, &wanted, report)?;
            finish(cache, &work, reference, &digest, &manifest, report)
        }
        finished => finished,
    }
}

/// Whether the disk may have changed what was right when it came.
fn is_damage(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Odd { .. } | ImageError::Rootfs(RootfsError::Digest { .. } | RootfsError::Layer { .. } | RootfsError::Open { .. })
    )
}

/// Makes the image of a manifest whose parts are all here, unless it is here as well, and points a reference at it.
pub(super) fn make(
    cache: &Path,
    reference: &Reference,
    digest: &Digest,
    manifest: &Manifest,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    let work = Workdir::once(cache, &format!("image-{}", &digest.hex()[..16]), BUILD_WAIT)?;
    match of_manifest(cache, digest)? {
        Some(image) => pointed(cache, reference, &image.digest, false),
        None => finish(cache, &work, reference, digest, manifest, report),
    }
}

fn finish(
    cache: &Path,
    work: &Workdir,
    reference: &Reference,
    digest: &Digest,
    manifest: &Manifest,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    let config = blobs::read(cache, &manifest.config.digest, manifest.config.size)?;
    let config = Config::read(&config, manifest.layers.len())?;
    let image = build(cache, work, &reference.to_string(), Parts { digest, manifest, config }, report)?;
    pointed(cache, reference, &image, true)
}

pub(super) fn pointed(cache: &Path, reference: &Reference, image: &super::super::Digest, made: bool) -> Result<Pulled, ImageError> {
    name_image(cache, reference, image)?;
    let image = store::resolve_digest(cache, image)?;
    Ok(Pulled { image: Image { name: reference.to_string(), ..image }, made })
}

/// The manifest of an image for this machine, by way of an index if there is one.
fn manifest(client: &Client, wanted: &str) -> Result<(Vec<u8>, Digest, Manifest), ImageError> {
    let architecture = architecture();
    let (bytes, digest) = client.manifest(wanted)?;
    let descriptor = match (Unread { bytes: &bytes, architecture }).read()? {
        Top::Manifest(manifest) => return Ok((bytes, digest, manifest)),
        Top::Index(descriptor) => descriptor,
    };
    let (bytes, digest) = client.manifest(descriptor.digest.as_str())?;
    match (Unread { bytes: &bytes, architecture }).read()? {
        Top::Manifest(manifest) => Ok((bytes, digest, manifest)),
        // An index of indexes is not followed: it could go on for ever.
        Top::Index(descriptor) => Err(DocumentError::Kind { media_type: descriptor.media_type }.into()),
    }
}

/// This machine as Go calls it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Gets every blob, some of them at once; the first failure ends it, and what has come stays.
fn fetch_all(cache: &Path, holders: &Holders<'_>, wanted: &[&Descriptor], report: Report<'_>) -> Result<(), ImageError> {
    let total = wanted.iter().map(|blob| blob.size).sum::<u64>();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let have: Vec<AtomicU64> = wanted.iter().map(|_| AtomicU64::new(0)).collect();
    let (says, hears) = channel::<ImageError>();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(wanted.len()) {
            let (says, next, failed, have) = (says.clone(), &next, &failed, &have);
            scope.spawn(move || {
                while let Some(at) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < wanted.len() && !failed.load(Ordering::Relaxed))
                {
                    let blob = wanted[at];
                    let mut watch = |bytes| have[at].store(bytes, Ordering::Relaxed);
                    if let Err(error) = blobs::fetch(cache, blob, &mut watch, |file, watch| holders.blob(blob, file, watch)) {
                        failed.store(true, Ordering::Relaxed);
                        let _ = says.send(error);
                    }
                }
            });
        }
        drop(says);
        let mut first = None;
        loop {
            match hears.recv_timeout(REPORT_EVERY) {
                Ok(error) => first = first.or(Some(error)),
                Err(RecvTimeoutError::Disconnected) => return first.map_or(Ok(()), Err),
                Err(RecvTimeoutError::Timeout) => {
                    let done = have.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum::<u64>();
                    tell(report, "image", format!("pulling {} of {} MiB", done / MIB, total / MIB), part(done, total));
                }
            }
        }
    })
}
