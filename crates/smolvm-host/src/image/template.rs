//! Templates: booted machines, parked, from which others are forked.
//!
//! ```text
//!   templates/<key>/memory          the guest's memory, sparse; mapped privately by every fork, open for writing to none
//!                   devices         the state of everything else
//!                   disk            the data disk as the guest has it mounted; forks of a template without one mount their own
//!                   manifest.json   what the key was made from
//! ```
//!
//! The key is the digest of everything that a fork must have in common with the machine it is forked from. So a
//! template is never out of date: what changes has another key, and what nobody asks for any more is collected.
//! The id of this boot is part of the key, because the host's processor and the rate of its counter are, too;
//! so no template has to survive a crash, and none is ever synced.
//!
//! One may be removed, and another of the same key made, at any moment: whoever forks opens the directory once and everything
//! beneath that, so that no fork has the disk of one and the memory of another.

use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use smolvm_model::effect::Effect;

use super::digest::Digest;
use super::error::ImageError;
use super::store::{publish_directory, require_space, unix_now};
use super::workdir::Workdir;
use super::{layout, listing, manifest};
use crate::effect::perform;
use crate::fsx::{self, FsError};

/// Templates that are kept; of more, the one that was forked least recently goes when another is made.
const MOST: usize = 16;
/// What a guest that has just booted touches of its memory, and as much again; `minimal` and `debian` take 90 to 100 MiB.
const SPACE_MIB: u64 = 256;
/// Part of every key: raised whenever templates are parked, or forked, in another way.
const FORMAT: &[u8] = b"smolvm template 3\n";
const MEMORY: &str = "memory";
const DEVICES: &str = "devices";
const DISK: &str = "disk";
const MANIFEST: &str = "manifest.json";

/// Everything that a fork has in common with its template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The image's name, for people.
    pub image: String,
    /// The image.
    pub image_digest: String,
    /// Kernel and initramfs, and so the agent.
    pub boot_digest: String,
    /// Every word that the hypervisor is told of the machine, and the kernel by it: a digest.
    pub machine: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// The data disk's size: the guest asked for it when it found the disk.
    pub disk_bytes: u64,
    /// Whether its disk is mounted, and forks start with a copy of that.
    pub disk: DiskState,
    /// What was run before it was parked.
    #[serde(default)]
    pub rehearsed: Vec<Vec<String>>,
    /// `tap`, `stream` or `none`: what the network device could do.
    pub network: String,
    /// The hypervisor: its version, and a digest over all its files.
    pub hypervisor: String,
    /// The host's boot.
    pub boot_id: String,
}

/// What is on the data disk of a sandbox that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// Nothing: it was never started.
    Fresh,
    /// Its own files.
    Used,
}

/// The digest of [`Facts`], 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateKey(String);

/// The text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a template's key has {} hexadecimal digits", TemplateKey::LEN)]
pub struct TemplateKeyError;

impl TemplateKey {
    /// How many digits it has.
    pub const LEN: usize = 32;

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for TemplateKey {
    type Err = TemplateKeyError;

    fn from_str(text: &str) -> Result<Self, TemplateKeyError> {
        let good = text.len() == Self::LEN && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err(TemplateKeyError) }
    }
}

impl Facts {
    /// The key; another in the smallest thing is another key.
    pub fn key(&self) -> TemplateKey {
        // Text and numbers: there is nothing in them that JSON cannot say.
        let text = serde_json::to_vec(self).unwrap_or_default();
        TemplateKey(Digest::of(&[FORMAT, &text]).hex().chars().take(TemplateKey::LEN).collect())
    }
}

/// A template that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its key.
    pub key: TemplateKey,
    /// What the key was made from.
    pub facts: Facts,
    /// When it was made.
    pub created_unix: u64,
    /// When it was last forked.
    pub used_unix: u64,
    /// Disk that its files take.
    pub disk_bytes: u64,
    directory: PathBuf,
}

impl Template {
    /// Opens it, to be forked. What has its key by now is as good, if it is another.
    pub fn open(&self) -> Result<Opened, ImageError> {
        let open = openat(CWD, &self.directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(open.map(Opened).map_err(|errno| FsError::on("open", &self.directory)(errno.into()))?)
    }

    /// Notes that it is being forked.
    pub fn touch(&self) {
        // Only the collection of what nobody uses goes by it.
        let _ = File::open(self.directory.join(MANIFEST)).and_then(|file| file.set_times(FileTimes::new().set_modified(SystemTime::now())));
    }
}

/// A template whose files are of one making, however long ago it was removed. Those that are removed are not found any more.
#[derive(Debug)]
pub struct Opened(OwnedFd);

impl Opened {
    /// Its memory.
    pub fn memory(&self) -> std::io::Result<File> {
        self.file(MEMORY)
    }

    /// The state of its devices.
    pub fn devices(&self) -> std::io::Result<File> {
        self.file(DEVICES)
    }

    /// The disk that each fork starts with a copy of, if its own is fresh.
    pub fn disk(&self) -> std::io::Result<File> {
        self.file(DISK)
    }

    fn file(&self, name: &str) -> std::io::Result<File> {
        Ok(openat(&self.0, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Opened {
    /// The descriptor of a template that another process opened.
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    created_unix: u64,
    facts: Facts,
}

/// The template with this key, if there is one.
pub fn find(cache: &Path, key: &TemplateKey) -> Result<Option<Template>, ImageError> {
    let directory = layout::templates(cache).join(key.as_str());
    let path = directory.join(MANIFEST);
    let Manifest { created_unix, facts } = match manifest::read(&path) {
        Ok(manifest) => manifest,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let bytes = |name: &str| std::fs::metadata(directory.join(name)).map_or(0, |file| file.blocks() * 512);
    let used = std::fs::metadata(&path).and_then(|file| file.modified()).map_err(FsError::on("read", &path))?;
    Ok(Some(Template {
        key: key.clone(),
        facts,
        created_unix,
        used_unix: used.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        disk_bytes: [MEMORY, DEVICES, DISK, MANIFEST].into_iter().map(bytes).sum(),
        directory,
    }))
}

/// Every template, the one that was forked last first.
pub fn list(cache: &Path) -> Result<Vec<Template>, ImageError> {
    // One that cannot be read is none, and goes when another is made.
    let mut templates: Vec<Template> = keys(cache)?.iter().filter_map(|key| find(cache, key).ok().flatten()).collect();
    templates.sort_by_key(|template| (std::cmp::Reverse(template.used_unix), template.key.clone()));
    Ok(templates)
}

/// Removes a template; machines that were forked from it keep its files open and run on. False: there was none.
pub fn remove(cache: &Path, key: &TemplateKey) -> Result<bool, ImageError> {
    let directory = layout::templates(cache).join(key.as_str());
    // Moved away first, so that nobody finds half of it; killed here, its next maker or `cleanup` sweeps it.
    let workdir = Workdir::new(cache, &artefact(key), REMOVAL_WAIT)?;
    let gone = workdir.path().join(OsStr::new("gone"));
    let removed = perform(Effect::DropTemplate, |_| match renameat_with(CWD, &directory, CWD, &gone, RenameFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(FsError::on("remove", &directory)(errno.into())),
    })?;
    Ok(removed)
}

/// How long a removal waits for whoever makes the template at this moment.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);

fn artefact(key: &TemplateKey) -> String {
    format!("template-{key}")
}

/// A template that is being made: its lock is held, and without [`Draft::publish`] nothing of it stays.
#[derive(Debug)]
pub struct Draft {
    workdir: Workdir,
    key: TemplateKey,
}

impl Draft {
    /// Waits until nobody else makes the same template, and makes its files; the memory has its size already.
    pub fn new(cache: &Path, key: &TemplateKey, memory_mib: u32, wait: Duration) -> Result<Self, ImageError> {
        let workdir = Workdir::new(cache, &artefact(key), wait)?;
        require_space(cache, u64::from(memory_mib).min(SPACE_MIB))?;
        let draft = Self { workdir, key: key.clone() };
        perform(Effect::Workdir, |_| -> Result<(), FsError> {
            for (path, length) in [(draft.memory(), u64::from(memory_mib) << 20), (draft.devices(), 0)] {
                let made = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
                let file = made.map_err(FsError::on("make", &path))?;
                file.set_len(length).map_err(FsError::on("size", &path))?;
            }
            Ok(())
        })?;
        Ok(draft)
    }

    /// Where the memory is.
    pub fn memory(&self) -> PathBuf {
        self.workdir.path().join(MEMORY)
    }

    /// Where the state of the devices is to be written.
    pub fn devices(&self) -> PathBuf {
        self.workdir.path().join(DEVICES)
    }

    /// Where the disk is to be copied to.
    pub fn disk(&self) -> PathBuf {
        self.workdir.path().join(DISK)
    }

    /// Gives the finished template its name, and collects what has not been used for longest.
    pub fn publish(self, cache: &Path, facts: Facts) -> Result<Template, ImageError> {
        let manifest = Manifest { created_unix: unix_now(), facts };
        fsx::write_atomic(&self.workdir.path().join(MANIFEST), &manifest::text(&manifest), 0o400)?;
        publish_directory(&self.workdir.path(), &layout::templates(cache), self.key.as_str())?;
        let key = self.key.clone();
        drop(self);
        collect(cache)?;
        find(cache, &key)?.ok_or(ImageError::NotFound { name: key.to_string(), available: Vec::new() })
    }
}

/// Removes what has not been used for longest, and what an older smolvm made that nobody can read any more.
fn collect(cache: &Path) -> Result<(), ImageError> {
    let kept: Vec<TemplateKey> = list(cache)?.into_iter().take(MOST).map(|template| template.key).collect();
    for key in keys(cache)?.into_iter().filter(|key| !kept.contains(key)) {
        // One that is just being made or removed by somebody is theirs.
        let _ = remove(cache, &key);
    }
    Ok(())
}

/// Every name that is a key, whatever is behind it.
fn keys(cache: &Path) -> Result<Vec<TemplateKey>, FsError> {
    let names = listing::names(&layout::templates(cache), |name| name.parse::<TemplateKey>().is_ok())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(image: &str) -> Facts {
        Facts {
            image: image.to_owned(),
            image_digest: "sha256:0".to_owned(),
            boot_digest: "sha256:1".to_owned(),
            machine: "sha256:2".to_owned(),
            accelerator: "tcg".to_owned(),
            cpus: 1,
            memory_mib: 1,
            disk_bytes: 1 << 30,
            disk: DiskState::Used,
            rehearsed: Vec::new(),
            network: "none".to_owned(),
            hypervisor: "7.2.22".to_owned(),
            boot_id: "b".to_owned(),
        }
    }

    fn make(cache: &Path, facts: &Facts) -> Template {
        let draft = Draft::new(cache, &facts.key(), facts.memory_mib, Duration::ZERO).unwrap();
        std::fs::write(draft.devices(), "state").unwrap();
        draft.publish(cache, facts.clone()).unwrap()
    }

    #[test]
    fn the_smallest_difference_is_another_key() {
        let one = facts("a");
        assert_eq!(one.key(), facts("a").key());
        assert_ne!(one.key(), Facts { cpus: 2, ..facts("a") }.key());
        assert_ne!(one.key(), Facts { boot_id: "c".to_owned(), ..facts("a") }.key());
        assert_eq!(one.key().to_string().parse(), Ok(one.key()));
        for bad in ["", "..", "0123", &"g".repeat(32), &"A".repeat(32)] {
            assert_eq!(bad.parse::<TemplateKey>(), Err(TemplateKeyError), "{bad}");
        }
    }

    #[test]
    fn made_found_listed_and_removed() {
        let cache = tempfile::tempdir().unwrap();
        let facts = facts("a");
        assert_eq!(find(cache.path(), &facts.key()).unwrap(), None);
        let made = make(cache.path(), &facts);
        assert_eq!(find(cache.path(), &facts.key()).unwrap(), Some(made.clone()));
        assert_eq!(made.open().unwrap().memory().unwrap().metadata().unwrap().len(), 1 << 20);
        assert_eq!(list(cache.path()).unwrap(), vec![made]);
        assert!(remove(cache.path(), &facts.key()).unwrap());
        assert!(!remove(cache.path(), &facts.key()).unwrap());
        assert_eq!(list(cache.path()).unwrap(), vec![]);
        assert_eq!(std::fs::read_dir(layout::temporary(cache.path())).unwrap().count(), 0);
    }

    #[test]
    fn who_has_opened_one_never_gets_files_of_another() {
        let cache = tempfile::tempdir().unwrap();
        let facts = facts("a");
        let first = make(cache.path(), &facts);
        let opened = first.open().unwrap();
        let before = opened.memory().unwrap();
        assert!(remove(cache.path(), &facts.key()).unwrap());
        assert!(matches!(first.open(), Err(ImageError::Fs(e)) if e.source.kind() == std::io::ErrorKind::NotFound));
        let second = make(cache.path(), &facts);
        assert!(second.open().unwrap().memory().is_ok());
        for gone in [opened.memory(), opened.devices(), opened.disk()] {
            assert_eq!(gone.unwrap_err().kind(), std::io::ErrorKind::NotFound);
        }
        assert_eq!(before.metadata().unwrap().len(), 1 << 20, "what was opened before stays what it was");
    }

    #[test]
    fn what_was_not_published_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let facts = facts("a");
        let draft = Draft::new(cache.path(), &facts.key(), 1, Duration::ZERO).unwrap();
        assert!(draft.memory().exists() && find(cache.path(), &facts.key()).unwrap().is_none());
        assert!(Draft::new(cache.path(), &facts.key(), 1, Duration::ZERO).is_err(), "one maker at a time");
        drop(draft);
        assert_eq!(std::fs::read_dir(layout::temporary(cache.path())).unwrap().count(), 0);
    }

    #[test]
    fn of_many_the_least_recently_used_goes() {
        let cache = tempfile::tempdir().unwrap();
        let made: Vec<Template> = (0..MOST).map(|i| make(cache.path(), &facts(&format!("i{i}")))).collect();
        for (age, template) in made.iter().enumerate() {
            let then = SystemTime::now() - Duration::from_secs(100 + u64::try_from(age).unwrap());
            let manifest = File::open(template.directory.join(MANIFEST)).unwrap();
            manifest.set_times(FileTimes::new().set_modified(then)).unwrap();
        }
        let oldest = made.last().unwrap();
        made[MOST - 2].touch();
        make(cache.path(), &facts("one more"));
        assert_eq!(list(cache.path()).unwrap().len(), MOST);
        assert_eq!(find(cache.path(), &oldest.key).unwrap(), None);
        // What another version wrote is not counted, and does not stay.
        let foreign = layout::templates(cache.path()).join("0123456789abcdef0123456789abcdef");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join(MANIFEST), r#"{"version": 1, "facts": "of another kind"}"#).unwrap();
        make(cache.path(), &facts("and another"));
        assert!(!foreign.exists());
        assert!(find(cache.path(), &made[MOST - 2].key).unwrap().is_some(), "one that was used stays");
    }
}
