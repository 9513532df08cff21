//! Opens a disk for a hypervisor: what others read too for reading only, and nothing that is no layer of this disk.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::chain::{Chain, layer_path};
use super::qcow2;
use crate::fsx::FsError;

/// A disk that is open.
#[derive(Debug)]
pub struct OpenDisk {
    /// The highest file, for reading and writing.
    pub write: File,
    /// The same, for reading.
    pub read: File,
    /// What lies below it, for reading, the lowest first.
    pub below: Vec<File>,
    /// How long a file that it consists of, or will, can become.
    pub limit: u64,
}

impl OpenDisk {
    /// Opens a disk of this size.
    ///
    /// # Errors
    /// `InvalidData` for a layer that is none of this disk; `ResourceBusy` if somebody else reads what is to be written.
    pub fn open(chain: &Chain, size: u64) -> Result<Self, FsError> {
        let lowest = chain.path(0);
        let numbers = chain.numbers();
        let under = numbers.iter().take(numbers.len().saturating_sub(1));
        let below = under.map(|number| open_layer(&lowest, *number, size)).collect::<Result<Vec<_>, _>>()?;
        let (write, read) = open_writable_layer(&lowest, chain.top(), size)?;
        Ok(Self { write, read, below, limit: qcow2::longest(size) })
    }
}

/// Opens one file of the disk with this lowest one for reading, and looks what it is.
///
/// # Errors
/// `InvalidData` for a layer that is none of this disk.
pub fn open_layer(lowest: &Path, number: u32, size: u64) -> Result<File, FsError> {
    let path = layer_path(lowest, number);
    let file = File::open(&path).map_err(FsError::on("open", &path))?;
    checked(file, &path, number, size)
}

/// Opens one file of the disk with this lowest one for writing, and once more for reading.
///
/// The last door: whatever led here, what others read is not written to.
///
/// # Errors
/// As [`open_layer`]; `ResourceBusy` if somebody else reads it.
pub fn open_writable_layer(lowest: &Path, number: u32, size: u64) -> Result<(File, File), FsError> {
    let read = open_layer(lowest, number, size)?;
    let path = layer_path(lowest, number);
    let write = File::options().read(true).write(true).open(&path).map_err(FsError::on("open", &path))?;
    match write.metadata().map_err(FsError::on("look at", &path))?.nlink() {
        0 | 1 => Ok((checked(write, &path, number, size)?, read)),
        _ => Err(FsError::on("write to", &path)(std::io::Error::new(ErrorKind::ResourceBusy, "other sandboxes or snapshots read it, too"))),
    }
}

/// The lowest is the disk's bytes as they are; every other has a header.
fn checked(file: File, path: &Path, number: u32, size: u64) -> Result<File, FsError> {
    if number != 0 {
        qcow2::check(&file, size).map_err(FsError::on("use", path))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{add_layer, share};

    const SIZE: u64 = 64 << 20;

    #[test]
    fn what_others_read_is_never_opened_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let lowest = dir.path().join("data.img");
        File::create(&lowest).unwrap().set_len(SIZE).unwrap();
        let open = || OpenDisk::open(&Chain::read(&lowest).unwrap(), SIZE).map(|disk| disk.below.len()).map_err(|e| e.source.kind());
        assert_eq!(open(), Ok(0));
        share(&Chain::read(&lowest).unwrap(), &dir.path().join("other"), |_| Ok::<(), FsError>(())).unwrap();
        if Chain::read(&lowest).unwrap().is_shared().unwrap() {
            assert_eq!(open(), Err(ErrorKind::ResourceBusy));
        }
        add_layer(&lowest, 3, SIZE).unwrap();
        assert_eq!(open(), Ok(1));
        std::fs::write(dir.path().join("data.img.2"), "no layer").unwrap();
        assert_eq!(open(), Err(ErrorKind::InvalidData));
    }
}
