//! Images by digest and by name.
//!
//! ```text
//!   images/<digest>/image.ext4      0444, never changed
//!                   manifest.json   what the image is; written before the directory gets this name
//!   images/by-name/<name>           the digest, replaced atomically
//!   images/by-reference/<name>      the same for names of registries
//!   images/by-manifest/<digest>     what was made of a manifest
//! ```
//! A name can be pointed at a newer image while sandboxes still hold the older one by its digest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use smolvm_model::effect::Effect;

use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{self, ManifestError};
use super::{layout, listing};
use crate::effect::{perform, perform_once};
use crate::fsx::{self, FsError, Removed, create_private_dir, remove_tree, sync_dir};
use smolvm_oci::document::{RunConfig, Step};

/// A published root image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// As in `debian`.
    pub name: String,
    /// Of the image file.
    pub digest: Digest,
    /// The read-only ext4 file.
    pub path: PathBuf,
    /// Its length.
    pub size_bytes: u64,
    /// When it was built.
    pub created_unix: u64,
    /// Memory a guest gets when nobody says how much.
    pub default_memory_mib: u32,
    /// Environment of commands in the guest, where they are given none.
    pub env: BTreeMap<String, String>,
    /// What it is as others have it, if it is one of a registry.
    pub origin: Option<Origin>,
}

/// An image as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// Its manifest.
    pub manifest: smolvm_oci::Digest,
    /// Its configuration.
    pub config: smolvm_oci::Digest,
    /// Its layers, from below.
    pub layers: Vec<LayerBlob>,
    /// For which machine.
    pub architecture: String,
    /// When it was made, as its authors say.
    pub created: Option<String>,
    /// How its authors mean it to be run.
    pub run: RunConfig,
    /// What each step of its making did.
    pub history: Vec<Step>,
}

impl Origin {
    /// Everything that a registry has of it: its manifest, its configuration, its layers from below.
    pub fn blobs(&self) -> impl Iterator<Item = &smolvm_oci::Digest> {
        [&self.manifest, &self.config].into_iter().chain(self.layers.iter().map(|layer| &layer.digest))
    }
}

/// One layer as it lies in a registry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerBlob {
    /// Its digest.
    pub digest: smolvm_oci::Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// What an image is built with, beside its file system.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) default_memory_mib: u32,
    pub(super) env: BTreeMap<String, String>,
    pub(super) origin: Option<Origin>,
}

#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct ImageManifest {
    name: String,
    digest: Digest,
    size_bytes: u64,
    created_unix: u64,
    default_memory_mib: u32,
    env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<Origin>,
}

/// The image a name points at; two small reads.
pub fn resolve(cache: &Path, name: &str) -> Result<Image, ImageError> {
    let digest = if is_name(name) { pointer(cache, name)? } else { None };
    match digest.map(|digest| open(cache, &digest)).transpose()?.flatten() {
        // The manifest has the name it was built under; the pointer decides.
        Some(image) => Ok(Image { name: name.to_owned(), ..image }),
        None => Err(not_found(cache, name)),
    }
}

/// The image with this digest, whatever its name points at now.
pub fn resolve_digest(cache: &Path, digest: &Digest) -> Result<Image, ImageError> {
    open(cache, digest)?.ok_or_else(|| not_found(cache, &digest.to_string()))
}

/// Whether an image with this digest is here; one look.
pub fn is_here(cache: &Path, digest: &Digest) -> bool {
    layout::images(cache).join(digest.hex()).join("image.ext4").is_file()
}

/// All images that have a name and are whole, by name.
pub fn list(cache: &Path) -> Result<Vec<Image>, ImageError> {
    let mut images = Vec::new();
    for name in names(cache)? {
        // `checks` says what is wrong with a broken one.
        images.extend(unless_broken(resolve(cache, &name).map(Some))?);
    }
    Ok(images)
}

/// A broken image is none, where it is one of many or can be made again; one of a newer smolvm is not broken.
pub(super) fn unless_broken(found: Result<Option<Image>, ImageError>) -> Result<Option<Image>, ImageError> {
    match found {
        Err(error @ (ImageError::Fs(_) | ImageError::Manifest(ManifestError::Newer { .. }))) => Err(error),
        Err(_) => Ok(None),
        Ok(image) => Ok(image),
    }
}

/// Reads the whole image and compares its digest.
pub fn verify(image: &Image) -> Result<(), ImageError> {
    let actual = Digest::of_file(&image.path).map_err(FsError::on("read", &image.path))?;
    if actual == image.digest {
        Ok(())
    } else {
        Err(ImageError::Damaged { path: image.path.clone(), expected: image.digest.clone(), actual })
    }
}

/// Removes every image and every name.
pub fn remove_all(cache: &Path) -> Result<Removed, ImageError> {
    match File::open(cache) {
        Ok(directory) => Ok(remove_tree(directory, OsStr::new("images"))?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Removed::default()),
        Err(e) => Err(FsError::on("open", cache)(e).into()),
    }
}

/// Publishes the file system `out/image.ext4` under its digest, and points `name` at it.
pub(super) fn publish(cache: &Path, out: &Path, name: &str, config: Config) -> Result<Image, ImageError> {
    let digest = publish_unnamed(cache, out, name, config)?;
    point(&layout::names(cache), name, &digest.to_string())?;
    resolve(cache, name)
}

/// The same without pointing anything at it.
pub(super) fn publish_unnamed(cache: &Path, out: &Path, name: &str, config: Config) -> Result<Digest, ImageError> {
    let file = out.join("image.ext4");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o444)).map_err(FsError::on("write-protect", &file))?;
    std::fs::set_permissions(out, PermissionsExt::from_mode(0o755)).map_err(FsError::on("open up", out))?;
    let open = File::open(&file).map_err(FsError::on("open", &file))?;
    open.sync_all().map_err(FsError::on("sync", &file))?;
    let manifest = ImageManifest {
        name: name.to_owned(),
        digest: Digest::of_file(&file).map_err(FsError::on("read", &file))?,
        size_bytes: open.metadata().map_err(FsError::on("read", &file))?.len(),
        created_unix: unix_now(),
        default_memory_mib: config.default_memory_mib,
        env: config.env,
        origin: config.origin,
    };
    let path = out.join("manifest.json");
    fsx::write_atomic(&path, &manifest::text_within(&path, &manifest)?, 0o444)?;
    publish_directory(out, &layout::images(cache), manifest.digest.hex())?;
    Ok(manifest.digest)
}

/// Gives a finished directory its final name in `parent`; one that has the name already is replaced,
/// for it has the same content, or should have.
pub(super) fn publish_directory(out: &Path, parent: &Path, name: &str) -> Result<(), FsError> {
    sync_dir(out)?;
    let target = parent.join(name);
    perform_once(Effect::Publish, |_| {
        create_private_dir(parent)?;
        let renamed = match renameat_with(CWD, out, CWD, &target, RenameFlags::empty()) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => renameat_with(CWD, out, CWD, &target, RenameFlags::EXCHANGE),
            other => other,
        };
        renamed.map_err(|errno| FsError::on("publish", &target)(errno.into()))?;
        sync_dir(parent)
    })
}

/// Points a name at what was published: from now on it is what is meant.
pub(super) fn point(directory: &Path, name: &str, at: &str) -> Result<(), FsError> {
    perform(Effect::PointName, |_| {
        create_private_dir(directory)?;
        fsx::write_atomic(&directory.join(name), format!("{at}\n").as_bytes(), 0o644)
    })
}

/// Fails early, and saying so, where a build would fill the disk.
pub(super) fn require_space(cache: &Path, needed_mib: u64) -> Result<(), ImageError> {
    create_private_dir(cache)?;
    let available_mib = free_mib(cache)?;
    if available_mib < needed_mib { Err(ImageError::NoSpace { path: cache.to_owned(), needed_mib, available_mib }) } else { Ok(()) }
}

/// What is free for us on the file system of `path`.
pub(super) fn free_mib(path: &Path) -> Result<u64, FsError> {
    let stat = rustix::fs::statvfs(path).map_err(|errno| FsError::on("measure", path)(errno.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

/// Now; before 1970 is 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the image is as a registry has it, whatever has become of its file; nothing, if it was made here, or is not here.
pub(super) fn origin(cache: &Path, digest: &Digest) -> Result<Option<Origin>, ManifestError> {
    match manifest::read::<ImageManifest>(&manifest_of(cache, digest)) {
        Ok(manifest) => Ok(manifest.origin),
        // What is left of one that was being removed.
        Err(error) if error.is_absent() && !is_here(cache, digest) => Ok(None),
        Err(error) => Err(error),
    }
}

fn manifest_of(cache: &Path, digest: &Digest) -> PathBuf {
    layout::images(cache).join(digest.hex()).join("manifest.json")
}

pub(super) fn open(cache: &Path, digest: &Digest) -> Result<Option<Image>, ImageError> {
    let manifest: ImageManifest = match manifest::read(&manifest_of(cache, digest)) {
        Ok(manifest) => manifest,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let path = layout::images(cache).join(digest.hex()).join("image.ext4");
    if std::fs::metadata(&path).map_or(0, |metadata| metadata.len()) != manifest.size_bytes {
        return Err(ImageError::WrongSize { path, expected: manifest.size_bytes });
    }
    let ImageManifest { name, size_bytes, created_unix, default_memory_mib, env, origin, .. } = manifest;
    Ok(Some(Image { name, digest: digest.clone(), path, size_bytes, created_unix, default_memory_mib, env, origin }))
}

fn pointer(cache: &Path, name: &str) -> Result<Option<Digest>, ImageError> {
    pointer_at(&layout::names(cache).join(name))
}

/// The digest in a file that holds one. Whoever asks for an image finds none through a pointer that is no digest, and makes it again;
/// whoever removes images asks [`Leads`](super::Leads).
pub(super) fn pointer_at(path: &Path) -> Result<Option<Digest>, ImageError> {
    Ok(line_at(path)?.and_then(|line| line.parse().ok()))
}

/// What a pointer says, if it is there.
pub(super) fn line_at(path: &Path) -> Result<Option<String>, ManifestError> {
    match manifest::read_line(path) {
        Ok(line) => Ok(Some(line)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every name there is, sorted.
pub(super) fn names(cache: &Path) -> Result<Vec<String>, FsError> {
    listing::names(&layout::names(cache), is_name)
}

fn not_found(cache: &Path, name: &str) -> ImageError {
    // If the names cannot be listed, that there is no such image still holds.
    ImageError::NotFound { name: name.to_owned(), available: names(cache).unwrap_or_default() }
}

/// Lower-case letters, digits and inner hyphens: without dots, so that no half-written file is a name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
