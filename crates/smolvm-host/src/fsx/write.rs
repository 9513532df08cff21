//! Makes files and directories.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use smolvm_model::effect::Effect;

use super::FsError;
use crate::effect::perform;

/// Makes `path` and what leads to it, mode 0700; one that is there already stays as it is.
pub fn create_private_dir(path: &Path) -> Result<(), FsError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FsError::on("make the directory", path))
}

/// Writes a file so that readers see all of it or nothing, and that it survives a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    write_whole(path, bytes, mode)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// The same, but its name survives one only when its directory is synced, which the caller does when all is in it.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    let temporary = temporary_for(path);
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        FsError { action: "write", path: path.to_owned(), source }
    })
}

/// Where a file is written before it has its name: beside it, under what no sandbox, image or reference is called.
pub(crate) fn temporary_for(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}{TEMPORARY}", std::process::id()));
    path.with_file_name(name)
}

/// Whether a name is one of [`temporary_for`].
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

const TEMPORARY: &str = ".tmp";

/// Leaves a file in the cache that can be made again at any time, and the directory for it.
pub fn cache_file(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    perform(Effect::CacheFile, |_| {
        path.parent().map_or(Ok(()), create_private_dir)?;
        write_atomic(path, bytes, 0o600)
    })
}

/// Makes renames and removals in a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FsError::on("sync the directory", path))
}
