//! What lies in the cache and nobody needs, or needs only to be quicker.
//!
//! ```text
//!   images      no name and no sandbox or snapshot has the digest          templates   of another boot, or not forked lately
//!   kernels, initramfs    others are current                               downloads   package lists, archives
//! ```
//!
//! Whoever makes a kernel, an archive or a download holds its lock until it has a name; while somebody does, that part is left alone. Whoever
//! makes or uses an image holds the [lock of all of them](guard): that one is there before anybody begins. A template has a lock of its own.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use smolvm_model::effect::Effect;

use super::error::ImageError;
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
    match guard::removing(cache, REMOVAL_WAIT) {
        Ok(lock) => held.push(lock),
        Err(ImageError::Lock(LockError::Busy { .. })) => busy.extend([Part::Image, Part::Blob]),
        Err(error) => return Err(error),
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

/// Blobs that no image has that is here, but for those with these digests.
pub fn blobs_without(cache: &Path, gone: &BTreeSet<String>) -> Result<Vec<Unused>, ImageError> {
    let here: BTreeSet<String> = listing::names(&layout::images(cache), is_digest)?.into_iter().collect();
    blobs_of_others(cache, here.difference(gone))
}

/// Blobs that none of these images has.
fn blobs_of_others<'a>(cache: &Path, images: impl Iterator<Item = &'a String>) -> Result<Vec<Unused>, ImageError> {
    let mut used = BTreeSet::new();
    for digest in images {
        let image = digest.parse().ok().and_then(|digest| store::open(cache, &digest).ok().flatten());
        let Some(origin) = image.and_then(|image| image.origin) else { continue };
        used.extend(origin.blobs().map(|digest| digest.hex().to_owned()));
    }
    Ok(blobs(cache)?.into_iter().filter(|blob| !used.contains(&blob.name)).collect())
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
mod tests {
    use smolvm_model::reference::Reference;

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
        let build = Workdir::new(cache.path(), "kernel", Duration::ZERO).unwrap();
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!(idle, [Part::Template, Part::Image, Part::Initramfs, Part::Downloads, Part::Blob]);
        drop((held, build));
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!((held.len(), idle.len()), (2, 6));
        assert!(Workdir::new(cache.path(), "kernel", Duration::ZERO).is_err(), "nobody begins meanwhile");
    }

    #[test]
    fn a_pull_that_begins_after_the_look_is_kept_away_and_one_that_began_before_it_is_left_alone() {
        let cache = cache();
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!(idle.len(), 6);
        assert!(matches!(guard::using(cache.path(), Duration::ZERO), Err(ImageError::Lock(LockError::Busy { .. }))));
        drop(held);
        let pull = guard::using(cache.path(), Duration::ZERO).unwrap();
        let (held, idle) = idle_parts(cache.path()).unwrap();
        assert_eq!(idle, [Part::Template, Part::Kernel, Part::Initramfs, Part::Downloads]);
        guard::using(cache.path(), Duration::ZERO).unwrap();
        drop((held, pull));
        assert_eq!(idle_parts(cache.path()).unwrap().1.len(), 6);
    }

    #[test]
    fn what_a_killed_command_left_is_no_image_and_is_swept() {
        let cache = cache();
        let at = |path: &str| cache.path().join(path);
        let digest = format!("sha256:{}\n", "a".repeat(64));
        for directory in ["images/by-reference", "images/by-manifest", "blobs/partial", "locks"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        let reference = at("images/by-reference/docker.io+library+good:1");
        let left = fsx::temporary_for(&reference);
        let blob = fsx::temporary_for(&at("blobs").join("b".repeat(64)));
        let (stale, whole) = (at("images/by-manifest").join("c".repeat(64)), at("images/by-manifest").join("d".repeat(64)));
        for path in [&reference, &left, &blob, &whole] {
            std::fs::write(path, &digest).unwrap();
        }
        std::fs::write(&stale, format!("sha256:{}\n", "9".repeat(64))).unwrap();
        let locks = ["blob-0a", "image-00ff", "image-load-12", "image-import-34"].map(|name| at("locks").join(format!("{name}.lock")));
        for lock in &locks {
            std::fs::write(lock, "").unwrap();
        }
        assert_eq!(Reference::of_file_name(left.file_name().unwrap().to_str().unwrap()), None, "a half-written name is a name");
        // What somebody renames meanwhile is not there any more.
        std::os::unix::fs::symlink("gone", at("images/by-reference/docker.io+library+z:1")).unwrap();
        assert_eq!(named_images(cache.path()).unwrap(), BTreeSet::from(["a".repeat(64)]));
        let at_work = guard::using(cache.path(), Duration::ZERO).unwrap();
        assert_eq!((sweep_store(cache.path()).unwrap(), left.exists()), (0, true), "somebody is writing it");
        drop(at_work);
        assert!(sweep_store(cache.path()).unwrap() > 0);
        let gone = [&left, &blob, &stale].into_iter().chain(&locks);
        assert!(gone.into_iter().all(|path| !path.exists()));
        assert!(reference.exists() && whole.exists());
    }

    /// An image that has these parts as a registry has it: `1` is its manifest, `2` its configuration, `3` its layer.
    fn pulled(cache: &Path, hex: &str) {
        let part = |digit: &str| format!("sha256:{}", digit.repeat(64)).parse().unwrap();
        let origin = store::Origin {
            manifest: part("1"),
            config: part("2"),
            layers: vec![store::LayerBlob { digest: part("3"), size_bytes: 1 }],
            architecture: String::new(),
            created: None,
            run: smolvm_oci::document::RunConfig::default(),
            history: Vec::new(),
        };
        let directory = layout::images(cache).join(hex);
        let manifest = serde_json::json!({
            "version": 1, "name": "x", "digest": format!("sha256:{hex}"), "created_unix": 0, "default_memory_mib": 128, "env": {},
            "size_bytes": std::fs::metadata(directory.join("image.ext4")).unwrap().len(), "origin": origin,
        });
        std::fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
        std::fs::create_dir_all(layout::blobs(cache)).unwrap();
        for digit in ["1", "2", "3"] {
            std::fs::write(layout::blobs(cache).join(digit.repeat(64)), digit).unwrap();
        }
    }

    #[test]
    fn a_pointer_that_cannot_be_read_may_lead_anywhere_and_stops_nothing() {
        let cache = cache();
        pulled(cache.path(), &"c".repeat(64));
        let needed = BTreeSet::from(["b".repeat(64)]);
        let bad = [layout::references(cache.path()).join("docker.io+library+bad:1"), layout::names(cache.path()).join("bad")];
        for path in &bad {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![b'x'; 1 << 20]).unwrap();
            let found = unused(cache.path(), "boot", &needed).unwrap();
            let want = [(Part::Template, "00"), (Part::Initramfs, "cc"), (Part::Downloads, "ap")];
            assert_eq!(names(&found), want, "it may lead to the image without a name, and to what that was made of");
            std::fs::remove_file(path).unwrap();
        }
        assert_eq!(names(&unused(cache.path(), "boot", &needed).unwrap())[1], (Part::Image, "cc"));
        // What was made of a manifest can be made again.
        let manifest = layout::manifests(cache.path()).join("d".repeat(64));
        std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        std::fs::write(&manifest, vec![b'x'; 1 << 20]).unwrap();
        std::fs::create_dir_all(layout::locks(cache.path())).unwrap();
        assert!(sweep_store(cache.path()).unwrap() > 0 && !manifest.exists());
    }

    #[test]
    fn parts_of_blobs_are_judged_one_by_one() {
        let cache = cache();
        let partial = cache.path().join("blobs/partial");
        std::fs::create_dir_all(&partial).unwrap();
        for (name, age) in [("b".repeat(64), 0), ("c".repeat(64), 1_000_000)] {
            let file = File::create(partial.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let found = blobs(cache.path()).unwrap();
        let [young, old] = &found[..] else { panic!("{found:?}") };
        let since = |one: &Unused| if let Use::Since(then) = one.used { then } else { panic!("{one:?}") };
        assert!(since(young) - since(old) >= 999_999);
        drop_unused(cache.path(), old).unwrap();
        assert!(partial.join("b".repeat(64)).exists() && !partial.join("c".repeat(64)).exists());
    }
}
