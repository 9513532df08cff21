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

mod draft;
mod remove;

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smolvm_model::name::SandboxId;
use smolvm_model::spec::Spec;

use super::checksum::Checksum;
use super::error::ImageError;
use super::template::Facts;
use super::{listing, manifest};
use crate::disk::Chain;
use crate::fsx::FsError;
use crate::lock::{self, LockError};
use crate::store::spec_from_json;

pub use draft::Draft;
pub use remove::{remove, sweep};

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

fn artefact(name: &SandboxId) -> String {
    format!("snapshot-{name}")
}

fn saved(root: &Path) -> PathBuf {
    root.join("saved")
}

#[cfg(test)]
mod tests;
