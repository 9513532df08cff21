//! The files of a copy while it is made, and how they become a snapshot.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smolvm_model::effect::Effect;
use smolvm_model::name::SandboxId;

use super::{Files, Kind, MANIFEST, Manifest, Origin, Snapshot, VERSION, artefact, files_of, find, saved};
use crate::effect::perform;
use crate::engine::guest_memory::Counted;
use crate::fsx::{self, FsError};
use crate::image::checksum::Checksum;
use crate::image::error::ImageError;
use crate::image::manifest;
use crate::image::store::{publish_directory, unix_now};
use crate::image::workdir::Workdir;
use crate::store::spec_to_json;
use crate::threads::beside;

/// The files of a machine that is being copied: its lock is held, and without [`Draft::publish`] nothing of it stays.
#[derive(Debug)]
pub struct Draft {
    pub(super) workdir: Workdir,
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
    ///
    /// What is `counted` of the memory is not read again.
    pub fn publish(
        self,
        root: &Path,
        name: &SandboxId,
        kind: Kind,
        origin: &Origin,
        counted: Option<&Counted>,
    ) -> Result<Snapshot, ImageError> {
        if find(root, name)?.is_some() {
            return Err(ImageError::Exists { name: name.to_string() });
        }
        let names = files_of(kind, &self.workdir.path())?;
        let paths: Vec<PathBuf> = names.iter().map(|name| self.workdir.path().join(name)).collect();
        let memory = self.files().memory;
        let to_disk = || paths.iter().try_for_each(sync);
        let digest_of = |path: &PathBuf| match counted.filter(|_| *path == memory) {
            Some(counted) => Checksum::of_beside(path, counted),
            None => Checksum::of(path),
        };
        let count = || paths.iter().map(|path| digest_of(path).map_err(FsError::on("read", path))).collect();
        // One waits for the disk while others count.
        let (written, digests): (Result<(), FsError>, Result<Vec<Checksum>, FsError>) = beside(to_disk, count);
        let digests = written.and(digests)?;
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
fn sync(path: &PathBuf) -> Result<(), FsError> {
    File::open(path).and_then(|file| file.sync_data()).map_err(FsError::on("sync", path))
}
