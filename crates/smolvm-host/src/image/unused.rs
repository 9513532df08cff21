//! What lies in the cache and nobody needs, or needs only to be quicker.
//!
//! ```text
//!   images      no name and no sandbox or snapshot has the digest          templates   of another boot, or not forked lately
//!   kernels, initramfs    others are current                               downloads   package lists, archives
//! ```
//!
//! Whoever makes a kernel, an archive or a download holds its lock until it has a name; while somebody does, that part is left alone. Whoever
//! makes or uses an image holds the [lock of all of them](guard): that one is there before anybody begins. A template has a lock of its own.
//!
//! What cannot be read is never taken for what is not there: a pointer that nobody understands may lead to any image, and an image that does
//! not say what it was made of may have been made of any layer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use smolvm_model::effect::Effect;

use super::error::ImageError;
use super::manifest::ManifestError;
use super::reference::{self, Leads};
use super::template::{self, TemplateKey};
use super::{guard, layout, listing, manifest, store};
use crate::effect::perform;
use crate::fsx::{self, FsError, remove_tree};
use crate::lock::{self, Lock, LockError};

/// A part of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A parked machine.
    Template,
    /// A root image.
    Image,
    /// A kernel with its modules.
    Kernel,
    /// An archive that guests boot from.
    Initramfs,
    /// Package lists and what was downloaded with them.
    Downloads,
    /// A part of an image as a registry has it.
    Blob,
}

impl Part {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Image => "image",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Downloads => "downloads",
            Self::Blob => "blob",
        }
    }
}

/// What it is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing will ever ask for it.
    None,
    /// It saves time when it is asked for, and was last at this moment (seconds since 1970).
    Since(u64),
}

/// Something that could go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Which part it is of.
    pub part: Part,
    /// Its name in that part.
    pub name: String,
    /// Disk that it takes.
    pub bytes: u64,
    /// What it is good for.
    pub used: Use,
}

/// Everything that could go. `needed` are the digests of images that sandboxes and snapshots have; `boot_id` is this boot's.
pub fn unused(cache: &Path, boot_id: &str, needed: &BTreeSet<String>) -> Result<Vec<Unused>, ImageError> {
    let mut found = Vec::new();
    for name in listing::names(&layout::templates(cache), |name| name.parse::<TemplateKey>().is_ok())? {
        let known = name.parse().ok().and_then(|key| template::find(cache, &key).ok().flatten());
        // One that cannot be read is of another smolvm.
        let used = known.filter(|template| template.facts.boot_id == boot_id).map_or(Use::None, |template| Use::Since(template.used_unix));
        found.push(entry(Part::Template, &layout::templates(cache), name, used)?);
    }
    let named = named_images(cache)?;
    for name in listing::names(&layout::images(cache), is_digest)? {
        if !named.contains(&name) && !needed.contains(&name) {
            found.push(entry(Part::Image, &layout::images(cache), name, Use::None)?);
        }
    }
    for (part, directory) in [(Part::Kernel, layout::kernels(cache)), (Part::Initramfs, layout::initramfs(cache))] {
        // Without a current one nothing is known of the others.
        let Ok(current) = manifest::read_line(&directory.join(CURRENT)) else { continue };
        let current = current.trim_start_matches("sha256:");
        for name in listing::names(&directory, |name| name != CURRENT && name != current && !name.starts_with('.'))? {
            found.push(entry(part, &directory, name, Use::None)?);
        }
    }
    found.extend(unused_blobs(cache, &named, needed)?);
    let downloads = layout::apt(cache);
    if downloads.is_dir() {
        found.push(entry(Part::Downloads, cache, APT.to_owned(), changed(&downloads)?)?);
    }
    Ok(found)
}

/// The parts that nobody makes anything of at this moment; as long as the locks are held nobody begins.
pub fn idle_parts(cache: &Path) -> Result<(Vec<Lock>, Vec<Part>), ImageError> {
    let (mut held, mut busy) = (Vec::new(), Vec::new());
    if !cache.is_dir() {
        return Ok((held, PARTS.to_vec()));
    }
    match alone(cache)? {
        Some(lock) => held.push(lock),
        None => busy.extend([Part::Image, Part::Blob]),
    }
    for (artefact, part) in MADE_UNDER {
        let path = layout::lock(cache, artefact)?;
        // Where nobody has made one yet there is none to be removed.
        if !path.exists() {
            continue;
        }
        match lock::take(&path, Duration::ZERO) {
            Ok(lock) => held.push(lock),
            Err(LockError::Busy { .. }) => busy.push(part),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((held, PARTS.into_iter().filter(|part| !busy.contains(part)).collect()))
}

/// Whether nobody uses or makes an image at this moment. Nothing is held: who acts on it may find somebody there.
pub fn images_are_idle(cache: &Path) -> Result<bool, ImageError> {
    Ok(!cache.is_dir() || alone(cache)?.is_some())
}

/// The images' lock, unless somebody uses or makes one.
fn alone(cache: &Path) -> Result<Option<Lock>, ImageError> {
    match guard::removing(cache, REMOVAL_WAIT) {
        Ok(lock) => Ok(Some(lock)),
        Err(ImageError::Lock(LockError::Busy { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes it; gives the bytes that were freed.
pub fn drop_unused(cache: &Path, unused: &Unused) -> Result<u64, ImageError> {
    let directory = match unused.part {
        Part::Template => {
            let Ok(key) = unused.name.parse() else { return Ok(0) };
            return Ok(if template::remove(cache, &key)? { unused.bytes } else { 0 });
        }
        Part::Image => layout::images(cache),
        Part::Kernel => layout::kernels(cache),
        Part::Initramfs => layout::initramfs(cache),
        Part::Downloads => cache.to_owned(),
        Part::Blob if unused.name.starts_with(PARTIAL) => layout::partial_blobs(cache),
        Part::Blob => layout::blobs(cache),
    };
    let name = unused.name.strip_prefix(PARTIAL).unwrap_or(&unused.name);
    let open = File::open(&directory).map_err(FsError::on("open", &directory))?;
    perform(Effect::RemoveCache, |_| remove_tree(&open, OsStr::new(name)))?;
    // As it was counted: with its directories, too.
    Ok(unused.bytes)
}

/// What each thing in the cache takes, by name.
pub fn sizes(cache: &Path) -> Result<Vec<(String, u64)>, FsError> {
    let names = listing::names(cache, |_| true)?;
    names.into_iter().map(|name| Ok((name.clone(), fsx::disk_usage(&cache.join(&name))?))).collect()
}

/// All of them.
pub const PARTS: [Part; 6] = [Part::Template, Part::Image, Part::Kernel, Part::Initramfs, Part::Downloads, Part::Blob];
/// Parts of which whoever makes one holds the lock of that name.
const MADE_UNDER: [(&str, Part); 3] = [("apt", Part::Downloads), ("initramfs", Part::Initramfs), ("kernel", Part::Kernel)];
const CURRENT: &str = "current";
const APT: &str = "apt";
/// Before the names of blobs that are not whole.
const PARTIAL: &str = "partial/";
/// How long a removal waits for whoever creates a sandbox at this moment; whoever pulls takes longer, and goes first.
const REMOVAL_WAIT: Duration = Duration::from_millis(300);

/// Blobs of no image that stays: of one that is gone, or of a pull that failed and may go on.
fn unused_blobs(cache: &Path, named: &BTreeSet<String>, needed: &BTreeSet<String>) -> Result<Vec<Unused>, ImageError> {
    blobs_of_others(cache, named.union(needed))
}

/// Blobs that no image has that is here, but for those with these digests. One of them that does not say what it was made of keeps them all.
pub fn blobs_without(cache: &Path, gone: &BTreeSet<String>) -> Result<Vec<Unused>, ImageError> {
    let here: BTreeSet<String> = listing::names(&layout::images(cache), is_digest)?.into_iter().collect();
    blobs_of_others(cache, here.difference(gone))
}

/// Blobs that none of these images has.
fn blobs_of_others<'a>(cache: &Path, images: impl Iterator<Item = &'a String>) -> Result<Vec<Unused>, ImageError> {
    let used = parts_of(cache, images);
    // What is not whole is no image's in any case.
    let is_others = |blob: &Unused| blob.name.starts_with(PARTIAL) || used.as_ref().is_ok_and(|used| !used.contains(&blob.name));
    Ok(blobs(cache)?.into_iter().filter(is_others).collect())
}

/// What these images were made of, if each of them says it. One whose file is damaged does, and is made again of these.
fn parts_of<'a>(cache: &Path, images: impl Iterator<Item = &'a String>) -> Result<BTreeSet<String>, ManifestError> {
    let mut parts = BTreeSet::new();
    for digest in images.filter_map(|name| name.parse().ok()) {
        let origin = store::origin(cache, &digest)?;
        parts.extend(origin.iter().flat_map(store::Origin::blobs).map(|digest| digest.hex().to_owned()));
    }
    Ok(parts)
}

/// Every part of an image as a registry has it, and what has come of others, whoever needs them.
pub fn blobs(cache: &Path) -> Result<Vec<Unused>, ImageError> {
    let directory = layout::blobs(cache);
    let mut names = listing::names(&directory, is_digest)?;
    // Each by itself: a pull that comes on keeps its own, and no other.
    names.extend(listing::names(&layout::partial_blobs(cache), |_| true)?.into_iter().map(|name| format!("{PARTIAL}{name}")));
    let mut found = Vec::new();
    for name in names {
        match changed(&directory.join(&name)).and_then(|used| entry(Part::Blob, &directory, name, used)) {
            Ok(blob) => found.push(blob),
            // It became whole, or went, while the others were looked at.
            Err(ImageError::Fs(e)) if e.source.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Removes what killed commands left beside images and blobs, and the lock files of what is made once; gives the bytes that were freed.
pub(super) fn sweep_store(cache: &Path) -> Result<u64, ImageError> {
    if !layout::locks(cache).is_dir() {
        return Ok(0);
    }
    let _alone = match guard::removing(cache, Duration::ZERO) {
        Ok(lock) => lock,
        Err(ImageError::Lock(LockError::Busy { .. })) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut freed = 0;
    for directory in [layout::names(cache), layout::references(cache), layout::manifests(cache), layout::blobs(cache)] {
        // Nobody who writes there is at work.
        freed += drop_all(&directory, &listing::names(&directory, fsx::is_temporary)?)?;
    }
    let manifests = layout::manifests(cache);
    let mut dangling = listing::names(&manifests, is_digest)?;
    // What one that cannot be read led to is made again, and so is the pointer.
    dangling.retain(|name| !Leads::of(&manifests.join(name)).digest().is_some_and(|digest| store::is_here(cache, digest)));
    freed += drop_all(&manifests, &dangling)?;
    for name in listing::names(&layout::locks(cache), is_lock_of_one)? {
        match lock::take(&layout::locks(cache).join(name), Duration::ZERO) {
            Ok(held) => held.remove()?,
            Err(LockError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(freed)
}

fn drop_all(directory: &Path, names: &[String]) -> Result<u64, ImageError> {
    if names.is_empty() {
        return Ok(0);
    }
    let open = File::open(directory).map_err(FsError::on("open", directory))?;
    let mut freed = 0;
    for name in names {
        freed += perform(Effect::RemoveCache, |_| remove_tree(&open, OsStr::new(name)))?.bytes;
    }
    Ok(freed)
}

/// Of a blob, or of an image that comes from a registry, an archive or a file system: those are made once, and nobody asks for their locks again.
fn is_lock_of_one(name: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some(artefact) = name.strip_suffix(".lock") else { return false };
    ["blob-", "image-load-", "image-import-", "image-"].iter().any(|kind| artefact.strip_prefix(kind).is_some_and(hex))
}

/// Of use since it was last changed.
fn changed(path: &Path) -> Result<Use, ImageError> {
    let seen = std::fs::metadata(path).and_then(|seen| seen.modified()).map_err(FsError::on("look at", path))?;
    Ok(Use::Since(seen.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())))
}

fn entry(part: Part, directory: &Path, name: String, used: Use) -> Result<Unused, ImageError> {
    let path: PathBuf = directory.join(&name);
    Ok(Unused { part, bytes: fsx::disk_usage(&path)?, name, used })
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The digests that names lead to: any that is here, where it is not known of one of them.
fn named_images(cache: &Path) -> Result<BTreeSet<String>, ImageError> {
    let own = store::names(cache)?.into_iter().map(|name| Leads::of(&layout::names(cache).join(name)));
    let mut named = BTreeSet::new();
    for leads in own.chain(reference::pointers(cache)?.into_iter().map(|pointer| pointer.leads)) {
        match leads {
            Leads::To(digest) => named.extend([digest.hex().to_owned()]),
            Leads::Nowhere => {}
            Leads::Unknown => named.extend(listing::names(&layout::images(cache), is_digest)?),
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests;
