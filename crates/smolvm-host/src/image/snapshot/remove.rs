//! A snapshot goes, and what killed makers left.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use smolvm_model::effect::Effect;
use smolvm_model::name::SandboxId;

use super::{artefact, saved};
use crate::effect::perform;
use crate::fsx::{self, FsError};
use crate::image::error::ImageError;
use crate::image::workdir::{self, Workdir};
use crate::lock::{self, LockError};

/// How long a removal waits for whoever makes the snapshot at this moment.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);

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
    workdir::sweep_dead_once(root)
}
