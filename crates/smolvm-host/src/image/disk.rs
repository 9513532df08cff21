//! Data disks: the writable half of a sandbox's root, copied from one empty file system per size.
//!
//! Formatting costs a process and some ten milliseconds, copying the few blocks it wrote costs one or two. The inode
//! tables are holes, and stay holes: the guest is told not to zero them.

use smolvm_model::effect::Effect;

use crate::effect::{Permit, perform_once};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::ImageError;
use super::ext4::{self, Journal, Shape};
use super::layout;
use super::store::require_space;
use super::workdir::Workdir;
use crate::fsx::{self, FsError, create_private_dir, sync_dir};

const UUID: &str = "5a3c0f0e-6d69-4e69-8d61-6c0000000002";
const BYTES_PER_INODE: u64 = 16 << 10;
/// Room for the journal and a little more.
const SMALLEST: u64 = 32 << 20;
/// ext4 with 4 KiB blocks and 32-bit block numbers.
const LARGEST: u64 = 15 << 40;
/// What a template really takes, with its journal, in the largest sizes that are usual.
const SPACE_MIB: u64 = 8;
const BUILD_WAIT: Duration = Duration::from_mins(1);
/// Part of the file's name: another layout gets other templates.
const LAYOUT: u32 = 3;
/// The overlay's two directories, on one file system because they must be. A block each.
const DIRECTORIES: [&str; 2] = ["upper", "work"];

/// Why a data disk cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// A size no disk can have.
    #[error("a disk has from {} MiB to {} TiB, in steps of 4 KiB", SMALLEST >> 20, LARGEST >> 40)]
    Size {
        /// The size that was asked for.
        bytes: u64,
    },
}

/// A disk that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDisk {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub size_bytes: u64,
    /// What of it takes space on the host.
    pub allocated_bytes: u64,
}

/// The formatted, empty, sparse disk of this size that others are copied from; made once.
pub fn blank(cache: &Path, size_bytes: u64) -> Result<PathBuf, ImageError> {
    if !(SMALLEST..=LARGEST).contains(&size_bytes) || !size_bytes.is_multiple_of(ext4::BLOCK) {
        return Err(DiskError::Size { bytes: size_bytes }.into());
    }
    let disks = layout::disks(cache);
    let path = disks.join(format!("{size_bytes}.v{LAYOUT}.ext4"));
    if is_whole(&path, size_bytes) {
        return Ok(path);
    }
    let work = Workdir::new(cache, &format!("disk-{size_bytes}"), BUILD_WAIT)?;
    // Somebody else may have made it while we waited for the lock.
    if is_whole(&path, size_bytes) {
        return Ok(path);
    }
    require_space(cache, SPACE_MIB)?;
    let made = work.path().join("disk.ext4");
    ext4::format(
        &made,
        Shape {
            bytes: size_bytes,
            inodes: size_bytes / BYTES_PER_INODE,
            journal: Journal::Small { spare: DIRECTORIES.len() as u64 },
            uuid: UUID,
        },
    )?;
    ext4::edit(&made, &DIRECTORIES.map(|name| format!("mkdir {name}\n")).concat(), &work.path())?;
    std::fs::set_permissions(&made, PermissionsExt::from_mode(0o444)).map_err(FsError::on("write-protect", &made))?;
    std::fs::File::open(&made).and_then(|file| file.sync_all()).map_err(FsError::on("sync", &made))?;
    perform_once(Effect::Publish, |_| {
        create_private_dir(&disks)?;
        std::fs::rename(&made, &path).map_err(FsError::on("publish", &path))?;
        sync_dir(&disks)
    })?;
    Ok(path)
}

/// Makes the data disk `target` (a new file, mode 0600) of this size.
pub fn make_data_disk(_permit: &Permit, cache: &Path, size_bytes: u64, target: &Path) -> Result<DataDisk, ImageError> {
    let template = blank(cache, size_bytes)?;
    fsx::copy_sparse(&template, target, size_bytes)?;
    let metadata = std::fs::metadata(target).map_err(FsError::on("read", target))?;
    Ok(DataDisk { path: target.to_owned(), size_bytes, allocated_bytes: metadata.blocks() * 512 })
}

/// Published by rename, so a file of the right length is a finished one.
fn is_whole(path: &Path, size_bytes: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::permitted;
    use crate::proc::tool::Tool;

    fn make(cache: &Path, size_bytes: u64, target: &Path) -> Result<DataDisk, ImageError> {
        permitted(Effect::DataDisk, |permit| make_data_disk(permit, cache, size_bytes, target)).unwrap()
    }

    #[test]
    fn a_disk_is_sparse_sound_and_has_the_overlays_directories() {
        let cache = tempfile::tempdir().unwrap();
        let target = cache.path().join("data.img");
        let disk = make(cache.path(), 8 << 30, &target).unwrap();
        assert_eq!(disk.size_bytes, 8 << 30);
        assert!(disk.allocated_bytes < 1 << 20, "{} bytes", disk.allocated_bytes);
        ext4::check(&target).unwrap();
        let listing = Tool::new("debugfs").args(["-R", "ls -p /"]).arg(&target).run_ok().unwrap().text();
        for directory in ["upper", "work"] {
            assert!(listing.contains(&format!("/040755/0/0/{directory}/")), "{listing}");
        }
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        let template = || std::fs::metadata(blank(cache.path(), 8 << 30).unwrap()).unwrap().ino();
        let first = template();
        make(cache.path(), 8 << 30, &cache.path().join("second")).unwrap();
        assert_eq!(first, template(), "the template was not reused");
        assert!(make(cache.path(), 8 << 30, &target).is_err(), "an existing disk was overwritten");
    }

    /// How many pieces of the file are data.
    fn pieces(path: &Path) -> usize {
        use rustix::fs::{SeekFrom, seek};
        let file = std::fs::File::open(path).unwrap();
        let starts = std::iter::successors(seek(&file, SeekFrom::Data(0)).ok(), |start| {
            let end = seek(&file, SeekFrom::Hole(*start)).unwrap();
            seek(&file, SeekFrom::Data(end)).ok()
        });
        starts.count()
    }

    /// Whatever its size: what lies apart costs every copy and every removal an extent.
    #[test]
    fn a_disk_is_written_in_three_places_at_most() {
        let cache = tempfile::tempdir().unwrap();
        for size in [SMALLEST, 100 << 20, (1 << 30) + 4096, 8 << 30, 20 << 30, (2 << 30) + (2 << 20), 10_000_000_000 / 4096 * 4096] {
            let target = cache.path().join(format!("{size}.img"));
            make(cache.path(), size, &target).unwrap();
            let pieces = pieces(&target);
            assert!((1..=3).contains(&pieces), "{size}: {pieces}");
            ext4::check(&target).unwrap();
        }
    }

    #[test]
    fn sizes_no_disk_has_are_refused_before_anything_is_made() {
        let cache = tempfile::tempdir().unwrap();
        for bytes in [0, 1, SMALLEST - 4096, SMALLEST + 1, LARGEST + 4096, u64::MAX] {
            let error = blank(cache.path(), bytes).unwrap_err();
            assert!(matches!(error, ImageError::Disk(DiskError::Size { .. })), "{bytes}: {error}");
        }
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
        blank(cache.path(), SMALLEST).unwrap();
    }
}
