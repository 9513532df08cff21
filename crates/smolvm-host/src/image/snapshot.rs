//! Snapshots: what sandboxes were at one moment, to be restored as often as one likes.
//!
//! ```text
//!   snapshots/  saved/<name>/  memory         the guest's memory, sparse; not there for a snapshot of a disk alone
//!                              devices        the state of everything else; likewise
//!                              disk, disk.N   the data disk: its lowest file, and the layers over it (crate::disk)
//!                              manifest.json  whose, what of, and a digest of each file
//!               locks/  tmp/<artefact>.<random>/
//! ```
//!
//! Unlike a template a snapshot is somebody's work: it is synced before it has its name, nothing collects it, and it
//! outlives a reboot. It needs nothing but its image, so what it was made of may go: files that it shares have a name here.
//!
//! The same files, without a name and never synced, are what the copies of one `fork` begin with ([`Draft`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use smolvm_model::effect::Effect;
use smolvm_model::name::SandboxId;
use smolvm_model::spec::Spec;

use super::checksum::Checksum;
use super::error::ImageError;
use super::store::{publish_directory, unix_now};
use super::template::Facts;
use super::workdir::Workdir;
use super::{listing, manifest};
use crate::disk::Chain;
use crate::effect::perform;
use crate::fsx::{self, FsError};
use crate::lock::{self, LockError};
use crate::store::{spec_from_json, spec_to_json};

const MEMORY: &str = "memory";
const DEVICES: &str = "devices";
const DISK: &str = "disk";
const MANIFEST: &str = "manifest.json";
/// What is written now. The first had digests that were taken in another way ([`Checksum`]).
const VERSION: u32 = 2;

/// What is in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Memory, devices and disk: it goes on where it was.
    Machine,
    /// The disk: it boots with the files that were there.
    Disk,
}

impl Kind {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Machine => "machine",
            Self::Disk => "disk",
        }
    }

    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Machine => &[MEMORY, DEVICES, DISK],
            Self::Disk => &[DISK],
        }
    }
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The snapshot or sandbox that this one came from.
    pub parent: Option<SandboxId>,
    /// What it was asked to be.
    pub spec: Spec,
    /// What a machine must have in common with it to go on with its memory.
    pub facts: Facts,
    /// The host's processor, where the guest sees it.
    pub processor: Option<String>,
}

/// A snapshot that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its name.
    pub name: SandboxId,
    /// What is in it.
    pub kind: Kind,
    /// What it is of.
    pub origin: Origin,
    /// When it was made.
    pub created_unix: u64,
    /// Disk that its files take.
    pub size_bytes: u64,
    digests: Vec<(String, Checksum)>,
    directory: PathBuf,
}

/// A snapshot that stays what it is as long as this lives.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "the lock goes with it")] File);

/// Where the files of a machine lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Its memory.
    pub memory: PathBuf,
    /// The state of its devices.
    pub devices: PathBuf,
    /// Its data disk.
    pub disk: PathBuf,
}

impl Files {
    fn beneath(directory: &Path) -> Self {
        Self { memory: directory.join(MEMORY), devices: directory.join(DEVICES), disk: directory.join(DISK) }
    }
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    kind: Kind,
    sandbox: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
    created_unix: u64,
    spec: serde_json::Value,
    facts: Facts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    processor: Option<String>,
    digests: Vec<(String, String)>,
}

impl Snapshot {
    /// Where its files lie.
    pub fn files(&self) -> Files {
        Files::beneath(&self.directory)
    }

    /// Keeps it from being removed, and so from being another by the time it is used.
    pub fn hold(&self) -> Result<Held, ImageError> {
        let fail = |e: std::io::Error| ImageError::from(FsError::on("open", &self.directory)(e));
        let open = File::open(&self.directory).map_err(fail)?;
        open.try_lock_shared().map_err(|e| match e {
            // It is being removed.
            TryLockError::WouldBlock => LockError::Busy { path: self.directory.clone() }.into(),
            TryLockError::Error(e) => fail(e),
        })?;
        // It may have been removed, and another made of that name, since it was found.
        match find(self.directory.parent().and_then(Path::parent).unwrap_or(&self.directory), &self.name)? {
            Some(now) if (&now.digests, now.created_unix) == (&self.digests, self.created_unix) => Ok(Held(open)),
            _ => Err(ImageError::NotFound { name: self.name.to_string(), available: Vec::new() }),
        }
    }

    /// Reads all of it and holds it against the digests; gives the name of the first file that is not what it was.
    pub fn damage(&self) -> Result<Option<String>, ImageError> {
        for (name, digest) in &self.digests {
            let path = self.directory.join(name);
            match digest.fits(&path) {
                Ok(true) => {}
                Ok(false) => return Ok(Some(name.clone())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some(name.clone())),
                Err(e) => return Err(FsError::on("read", &path)(e).into()),
            }
        }
        Ok(None)
    }
}

/// The snapshot of that name, if there is one.
pub fn find(root: &Path, name: &SandboxId) -> Result<Option<Snapshot>, ImageError> {
    let directory = saved(root).join(name.as_str());
    let path = directory.join(MANIFEST);
    let read: Manifest = match manifest::read_up_to(VERSION, &path) {
        Ok(manifest) => manifest,
        Err(error) if error.is_absent() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let odd = |what: &str| ImageError::Odd { path: path.clone(), what: what.to_owned() };
    let spec = spec_from_json(&read.spec.to_string()).map_err(|e| odd(&e))?;
    // A layer that is missing, or one too many, is not seen by whoever reads the others.
    let there = files_of(read.kind, &directory)?;
    if there.iter().collect::<BTreeSet<_>>() != read.digests.iter().map(|(of, _)| of).collect() {
        return Err(odd("it names other files than such a snapshot has"));
    }
    let bytes = |name: &String| std::fs::metadata(directory.join(name)).map_or(0, |file| file.blocks() * 512);
    let size_bytes = there.iter().chain([&MANIFEST.to_owned()]).map(bytes).sum();
    let digests = read.digests.into_iter().map(|(name, digest)| Ok((name, digest.parse().map_err(|_| odd("a digest"))?)));
    let digests = digests.collect::<Result<Vec<(String, Checksum)>, ImageError>>()?;
    Ok(Some(Snapshot {
        name: name.clone(),
        kind: read.kind,
        origin: Origin {
            sandbox: read.sandbox.parse().map_err(|_| odd("the name of its sandbox"))?,
            parent: read.parent.map(|parent| parent.parse().map_err(|_| odd("the name of its parent"))).transpose()?,
            spec,
            facts: read.facts,
            processor: read.processor,
        },
        created_unix: read.created_unix,
        size_bytes,
        digests,
        directory,
    }))
}

/// The names of the files that such a snapshot has in this directory. One that must be there, and is not, is among them.
fn files_of(kind: Kind, directory: &Path) -> Result<Vec<String>, FsError> {
    let mut names: Vec<String> = kind.files().iter().map(|name| (*name).to_owned()).collect();
    match Chain::read(&directory.join(DISK)) {
        Ok(chain) => names.extend(chain.numbers().iter().filter(|number| **number != 0).map(|number| format!("{DISK}.{number}"))),
        Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(names)
}

/// Whether somebody makes or removes one at this moment.
pub fn is_at_work(root: &Path) -> Result<bool, ImageError> {
    for name in listing::names(&super::layout::locks(root), |_| true)? {
        if lock::is_held(&super::layout::locks(root).join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every snapshot that can be read, the newest first.
pub fn list(root: &Path) -> Result<Vec<Snapshot>, ImageError> {
    let mut found: Vec<Snapshot> = names(root)?.iter().filter_map(|name| find(root, name).ok().flatten()).collect();
    found.sort_by_key(|snapshot| (std::cmp::Reverse(snapshot.created_unix), snapshot.name.clone()));
    Ok(found)
}

/// The names of all of them, also of those that cannot be read.
pub fn names(root: &Path) -> Result<Vec<SandboxId>, FsError> {
    let names = listing::names(&saved(root), |name| name.parse::<SandboxId>().is_ok())?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// Removes a snapshot; machines that were restored from it keep its files open and run on. False: there was none.
pub fn remove(root: &Path, name: &SandboxId) -> Result<bool, ImageError> {
    let directory = saved(root).join(name.as_str());
    if !directory.exists() {
        return Ok(false);
    }
    // Moved away first, so that nobody finds half of it; killed here, `cleanup` sweeps it.
    let workdir = Workdir::once(root, &artefact(name), REMOVAL_WAIT)?;
    let gone = workdir.path().join(OsStr::new("gone"));
    let open = File::open(&directory).map_err(FsError::on("open", &directory))?;
    // Whoever restores it holds it.
    if !lock::wait_for(&open, Instant::now() + REMOVAL_WAIT).map_err(FsError::on("lock", &directory))? {
        return Err(LockError::Busy { path: directory }.into());
    }
    Ok(perform(Effect::DropSnapshot, |_| match renameat_with(CWD, &directory, CWD, &gone, RenameFlags::empty()) {
        Ok(()) => fsx::sync_dir(&saved(root)).map(|()| true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(FsError::on("remove", &directory)(errno.into())),
    })?)
}

/// Removes what killed makers left; gives back the bytes that were freed.
pub fn sweep(root: &Path) -> Result<u64, ImageError> {
    super::workdir::sweep_dead_once(root)
}

/// How long a removal waits for whoever makes the snapshot at this moment.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);

fn artefact(name: &SandboxId) -> String {
    format!("snapshot-{name}")
}

fn saved(root: &Path) -> PathBuf {
    root.join("saved")
}

/// The files of a machine that is being copied: its lock is held, and without [`Draft::publish`] nothing of it stays.
#[derive(Debug)]
pub struct Draft {
    workdir: Workdir,
}

impl Draft {
    /// Files for a snapshot of that name.
    pub fn of_snapshot(root: &Path, name: &SandboxId, wait: Duration) -> Result<Self, ImageError> {
        Ok(Self { workdir: Workdir::once(root, &artefact(name), wait)? })
    }

    /// Files for the copies of that sandbox.
    pub fn of_fork(root: &Path, source: &SandboxId, wait: Duration) -> Result<Self, ImageError> {
        Ok(Self { workdir: Workdir::once(root, &format!("fork-{source}"), wait)? })
    }

    /// Where its files are.
    pub fn files(&self) -> Files {
        Files::beneath(&self.workdir.path())
    }

    /// A new file, open for reading and writing.
    pub fn make(path: &Path) -> Result<File, FsError> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        options.open(path).map_err(FsError::on("make", path))
    }

    /// Brings everything to the disk and gives it its name; one that has the name already stays, and that is an error.
    pub fn publish(self, root: &Path, name: &SandboxId, kind: Kind, origin: &Origin) -> Result<Snapshot, ImageError> {
        if find(root, name)?.is_some() {
            return Err(ImageError::Exists { name: name.to_string() });
        }
        let names = files_of(kind, &self.workdir.path())?;
        let paths: Vec<PathBuf> = names.iter().map(|name| self.workdir.path().join(name)).collect();
        // One waits for the disk while others count.
        let digests = std::thread::scope(|scope| {
            // Where no thread can be had, one is done after the other.
            let syncing = std::thread::Builder::new().spawn_scoped(scope, || sync_all(&paths));
            let digests: Result<Vec<Checksum>, FsError> =
                paths.iter().map(|path| Checksum::of(path).map_err(FsError::on("read", path))).collect();
            let synced = match syncing {
                Ok(syncing) => syncing.join().unwrap_or_else(|_| Err(FsError::on("sync", root)(std::io::Error::other("a thread ended")))),
                Err(_) => sync_all(&paths),
            };
            synced.and(digests)
        })?;
        let manifest = Manifest {
            kind,
            sandbox: origin.sandbox.to_string(),
            parent: origin.parent.as_ref().map(ToString::to_string),
            created_unix: unix_now(),
            spec: serde_json::from_str(&spec_to_json(&origin.spec)).unwrap_or_default(),
            facts: origin.facts.clone(),
            processor: origin.processor.clone(),
            digests: names.into_iter().zip(digests).map(|(name, digest)| (name, digest.to_string())).collect(),
        };
        let path = self.workdir.path().join(MANIFEST);
        perform(Effect::Workdir, |_| fsx::write_atomic(&path, &manifest::text_of(VERSION, &manifest), 0o400))?;
        publish_directory(&self.workdir.path(), &saved(root), name.as_str())?;
        drop(self);
        find(root, name)?.ok_or(ImageError::NotFound { name: name.to_string(), available: Vec::new() })
    }
}

/// Contents and lengths. Names, and that they are files at all, come with the directory ([`publish_directory`]).
fn sync_all(paths: &[PathBuf]) -> Result<(), FsError> {
    paths.iter().try_for_each(|path| File::open(path).and_then(|file| file.sync_data()).map_err(FsError::on("sync", path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::template::DiskState;

    fn origin() -> Origin {
        let spec = r#"{"image": "minimal", "image_digest": "d", "cpus": 1, "memory_mib": 128, "disk_bytes": 67108864,
            "network": "none", "accelerator": "auto"}"#;
        Origin {
            sandbox: "vm-a".parse().unwrap(),
            parent: None,
            spec: spec_from_json(spec).unwrap(),
            facts: Facts {
                image: "minimal".to_owned(),
                image_digest: "d".to_owned(),
                boot_digest: "b".to_owned(),
                machine: "m".to_owned(),
                accelerator: "tcg".to_owned(),
                cpus: 1,
                memory_mib: 128,
                disk_bytes: 1,
                disk: DiskState::Used,
                rehearsed: Vec::new(),
                network: "none".to_owned(),
                hypervisor: "q".to_owned(),
                boot_id: "i".to_owned(),
            },
            processor: None,
        }
    }

    fn make(root: &Path, name: &str, kind: Kind) -> Result<Snapshot, ImageError> {
        let name = name.parse().unwrap();
        let draft = Draft::of_snapshot(root, &name, Duration::ZERO)?;
        let files = draft.files();
        for (path, text) in [(&files.memory, "m"), (&files.devices, "d"), (&files.disk, "k")] {
            std::fs::write(path, text).unwrap();
        }
        draft.publish(root, &name, kind, &origin())
    }

    #[test]
    fn made_found_listed_verified_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let made = make(root, "one", Kind::Machine).unwrap();
        assert_eq!(find(root, &made.name).unwrap(), Some(made.clone()));
        assert_eq!((made.origin.clone(), made.damage().unwrap()), (origin(), None));
        assert!(matches!(make(root, "one", Kind::Disk), Err(ImageError::Exists { .. })), "somebody's work was overwritten");
        let disk = make(root, "two", Kind::Disk).unwrap();
        assert_eq!(list(root).unwrap().len(), 2);
        std::fs::write(disk.files().disk, "x").unwrap();
        assert_eq!(disk.damage().unwrap(), Some("disk".to_owned()));
        assert!(remove(root, &made.name).unwrap() && !remove(root, &made.name).unwrap());
        assert_eq!(names(root).unwrap(), [disk.name]);
        for left in ["tmp", "locks"] {
            assert_eq!(std::fs::read_dir(root.join(left)).unwrap().count(), 0, "{left}");
        }
    }

    /// As the first smolvm that saved any wrote it.
    #[test]
    fn one_of_before_is_held_against_the_digests_that_it_has() {
        let root = tempfile::tempdir().unwrap();
        let made = make(root.path(), "one", Kind::Machine).unwrap();
        let path = made.directory.join(MANIFEST);
        let mut text = std::fs::read_to_string(&path).unwrap().replacen("\"version\": 2", "\"version\": 1", 1);
        for (name, digest) in &made.digests {
            let old = crate::image::digest::Digest::of_sparse_file(&made.directory.join(name)).unwrap();
            text = text.replacen(&digest.to_string(), &old.to_string(), 1);
        }
        assert!(text.contains("sha256:") && !text.contains("blake3:"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let found = find(root.path(), &made.name).unwrap().unwrap();
        assert_eq!(found.damage().unwrap(), None);
        std::fs::write(found.files().devices, "x").unwrap();
        assert_eq!(found.damage().unwrap().as_deref(), Some("devices"));
    }

    #[test]
    fn one_that_is_being_restored_is_not_removed_and_not_another() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let made = make(root, "one", Kind::Machine).unwrap();
        let (held, again) = (made.hold().unwrap(), made.hold().unwrap());
        assert!(matches!(remove(root, &made.name), Err(ImageError::Lock(LockError::Busy { .. }))));
        drop((held, again));
        let remover = File::open(&made.directory).unwrap();
        remover.try_lock().unwrap();
        assert!(matches!(made.hold(), Err(ImageError::Lock(LockError::Busy { .. }))), "one that is being removed");
        drop(remover);
        assert!(remove(root, &made.name).unwrap());
        assert!(matches!(made.hold(), Err(ImageError::Fs(_))));
        let other = make(root, "one", Kind::Disk).unwrap();
        assert!(matches!(made.hold(), Err(ImageError::NotFound { .. })), "another of the same name");
        other.hold().unwrap();
    }

    /// The disk of one is a stack of files: all are digested, and none may be missing or come later.
    #[test]
    fn layers_of_the_disk_are_files_of_it_and_one_that_is_missing_is_missed() {
        let root = tempfile::tempdir().unwrap();
        let (root, name) = (root.path(), "one".parse().unwrap());
        let draft = Draft::of_snapshot(root, &name, Duration::ZERO).unwrap();
        for file in ["disk", "disk.2", "disk.7"] {
            std::fs::write(draft.workdir.path().join(file), file).unwrap();
        }
        let made = draft.publish(root, &name, Kind::Disk, &origin()).unwrap();
        let named: Vec<&str> = made.digests.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((named, made.damage().unwrap()), (vec!["disk", "disk.2", "disk.7"], None));
        std::fs::write(made.directory.join("disk.2"), "other").unwrap();
        assert_eq!(made.damage().unwrap().as_deref(), Some("disk.2"));
        std::fs::write(made.directory.join("disk.3"), "more").unwrap();
        assert!(matches!(find(root, &name), Err(ImageError::Odd { .. })));
        for gone in ["disk.3", "disk.2"] {
            std::fs::remove_file(made.directory.join(gone)).unwrap();
        }
        assert!(matches!(find(root, &name), Err(ImageError::Odd { .. })));
    }

    #[test]
    fn what_was_not_published_is_none() {
        let root = tempfile::tempdir().unwrap();
        let name = "one".parse().unwrap();
        let draft = Draft::of_snapshot(root.path(), &name, Duration::ZERO).unwrap();
        std::fs::write(draft.files().memory, "m").unwrap();
        assert!(find(root.path(), &name).unwrap().is_none());
        drop(draft);
        assert_eq!(std::fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_manifest_of_a_stranger_is_refused_and_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        let made = make(root.path(), "one", Kind::Machine).unwrap();
        make(root.path(), "two", Kind::Disk).unwrap();
        let path = made.directory.join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for (from, to) in
            [("\"vm-a\"", "\"../a\""), ("\"memory\"", "\"../memory\""), ("\"minimal\"", "\"/\""), ("\"version\": 2", "\"version\": 9")]
        {
            assert!(text.contains(from), "{from}");
            std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
            assert!(find(root.path(), &made.name).is_err(), "{to}");
            assert_eq!(list(root.path()).unwrap().len(), 1);
        }
        assert_eq!(names(root.path()).unwrap().len(), 2);
    }
}
