//! What lies in the cache and nobody needs, or needs only to be quicker.
//!
//! ```text
//!   images      no name and no sandbox or snapshot has the digest          templates   of another boot, or not forked lately
//!   kernels, initramfs    others are current                               downloads   package lists, archives
//! ```
//!
//! Whoever makes one of these holds its lock until it has a name; while somebody does, that part is left alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use smolvm_model::effect::Effect;

use super::error::ImageError;
use super::template::{self, TemplateKey};
use super::{layout, listing, manifest, store};
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

    /// Whether a lock of this name is held by somebody who makes one.
    fn is_made_under(self, artefact: &str) -> bool {
        match self {
            Self::Template => artefact.starts_with("template-"),
            // Whoever pulls holds the lock of the image.
            Self::Image | Self::Blob => artefact.starts_with("image-"),
            Self::Kernel => artefact == "kernel",
            Self::Initramfs => artefact == "initramfs",
            Self::Downloads => artefact == "apt",
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
    for name in listing::names(&layout::locks(cache), |name| name.strip_suffix(".lock").is_some())? {
        let artefact = name.trim_end_matches(".lock");
        let parts = PARTS.into_iter().filter(|part| part.is_made_under(artefact));
        match lock::take(&layout::locks(cache).join(&name), Duration::ZERO) {
            // A template has a lock of its own, which its removal takes.
            Ok(_) if artefact.starts_with("template-") => {}
            Ok(lock) => held.push(lock),
            Err(LockError::Busy { .. }) => busy.extend(parts.filter(|part| *part != Part::Template)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((held, PARTS.into_iter().filter(|part| !busy.contains(part)).collect()))
}

/// Every part of an image as a registry has it, and what has come of others, whoever needs them.
pub fn blobs(cache: &Path) -> Result<Vec<Unused>, ImageError> {
    let directory = layout::blobs(cache);
    let names = listing::names(&directory, |name| is_digest(name) || name == PARTIAL)?;
    names.into_iter().map(|name| entry(Part::Blob, &directory, name.clone(), changed(&directory.join(name))?)).collect()
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
        Part::Blob => layout::blobs(cache),
    };
    let open = File::open(&directory).map_err(FsError::on("open", &directory))?;
    perform(Effect::RemoveCache, |_| remove_tree(&open, OsStr::new(&unused.name)))?;
    // As it was counted: with its directories, too.
    Ok(unused.bytes)
}

/// What each thing in the cache takes, by name.
pub fn sizes(cache: &Path) -> Result<Vec<(String, u64)>, FsError> {
    let names = listing::names(cache, |_| true)?;
    names.into_iter().map(|name| Ok((name.clone(), fsx::disk_usage(&cache.join(&name))?))).collect()
}

const PARTS: [Part; 6] = [Part::Template, Part::Image, Part::Kernel, Part::Initramfs, Part::Downloads, Part::Blob];
const CURRENT: &str = "current";
const APT: &str = "apt";
const PARTIAL: &str = "partial";

/// Blobs of no image that stays: of one that is gone, or of a pull that failed and may go on.
fn unused_blobs(cache: &Path, named: &BTreeSet<String>, needed: &BTreeSet<String>) -> Result<Vec<Unused>, ImageError> {
    let mut used = BTreeSet::new();
    for digest in named.union(needed) {
        let image = digest.parse().ok().and_then(|digest| store::open(cache, &digest).ok().flatten());
        let Some(origin) = image.and_then(|image| image.origin) else { continue };
        used.extend([origin.manifest.hex().to_owned(), origin.config.hex().to_owned()]);
        used.extend(origin.layers.iter().map(|layer| layer.digest.hex().to_owned()));
    }
    Ok(blobs(cache)?.into_iter().filter(|blob| !used.contains(&blob.name)).collect())
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

/// The digests that names point at.
fn named_images(cache: &Path) -> Result<BTreeSet<String>, ImageError> {
    let mut digests = BTreeSet::new();
    for names in [layout::names(cache), layout::references(cache)] {
        for name in listing::names(&names, |_| true)? {
            let digest = manifest::read_line(&names.join(name))?;
            digests.insert(digest.trim_start_matches("sha256:").to_owned());
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::workdir::Workdir;

    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().unwrap();
        let (named, needed, old) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
        for path in [
            format!("images/{named}/image.ext4"),
            format!("images/{needed}/image.ext4"),
            format!("images/{old}/image.ext4"),
            "images/by-name/minimal".to_owned(),
            format!("initramfs/{named}/initramfs.cpio"),
            format!("initramfs/{old}/initramfs.cpio"),
            "initramfs/current".to_owned(),
            "kernels/6.1-x/vmlinux".to_owned(),
            "apt/lists".to_owned(),
            format!("templates/{}/memory", "0".repeat(32)),
        ] {
            let path = cache.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("sha256:{named}\n")).unwrap();
        }
        cache
    }

    fn names(found: &[Unused]) -> Vec<(Part, &str)> {
        found.iter().map(|one| (one.part, &one.name[..2])).collect()
    }

    #[test]
    fn what_somebody_needs_is_not_unused() {
        let cache = cache();
        let needed = BTreeSet::from(["b".repeat(64)]);
        let found = unused(cache.path(), "boot", &needed).unwrap();
        let want = [(Part::Template, "00"), (Part::Image, "cc"), (Part::Initramfs, "cc"), (Part::Downloads, "ap")];
        assert_eq!(names(&found), want, "a cache without a current kernel keeps the ones it has");
        assert!(found.iter().all(|one| one.bytes > 0));
        assert!(found[..3].iter().all(|one| one.used == Use::None) && matches!(found[3].used, Use::Since(1..)));
        for one in &found {
            assert!(drop_unused(cache.path(), one).unwrap() > 0, "{one:?}");
        }
        assert_eq!(unused(cache.path(), "boot", &needed).unwrap(), []);
        assert!(cache.path().join("images").join("a".repeat(64)).exists() && cache.path().join("kernels/6.1-x").exists());
    }

    #[test]
    fn what_is_being_made_is_left_alone() {
        let cache = cache();
        let build = Workdir::new(cache.path(), "image-minimal", Duration::ZERO).unwrap();
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!(idle, [Part::Template, Part::Kernel, Part::Initramfs, Part::Downloads]);
        drop((held, build));
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!((held.len(), idle.len()), (1, 6));
        assert!(Workdir::new(cache.path(), "image-minimal", Duration::ZERO).is_err(), "nobody begins meanwhile");
    }
}
