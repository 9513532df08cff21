//! Opens a disk for a hypervisor: what others read too for reading only, and nothing that is no layer of this disk.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::chain::Chain;
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
        let numbers = chain.numbers();
        let mut below = numbers.iter().map(|number| open_layer(chain, *number, size)).collect::<Result<Vec<_>, _>>()?;
        let read = below.pop().ok_or_else(|| FsError::on("open", &chain.path(0))(ErrorKind::NotFound.into()))?;
        let top = chain.path(chain.top());
        let write = for_writing(&top)?;
        Ok(Self { write, read, below, limit: qcow2::longest(size) })
    }
}

/// Opens one layer for reading, and looks what it is.
pub fn open_layer(chain: &Chain, number: u32, size: u64) -> Result<File, FsError> {
    let path = chain.path(number);
    let file = File::open(&path).map_err(FsError::on("open", &path))?;
    if number != 0 {
        qcow2::check(&file, size).map_err(FsError::on("use", &path))?;
    }
    Ok(file)
}

/// The last door: whatever led here, what others read is not written to.
fn for_writing(path: &Path) -> Result<File, FsError> {
    let file = File::options().read(true).write(true).open(path).map_err(FsError::on("open", path))?;
    match file.metadata().map_err(FsError::on("look at", path))?.nlink() {
        0 | 1 => Ok(file),
        _ => Err(FsError::on("write to", path)(std::io::Error::new(ErrorKind::ResourceBusy, "other sandboxes or snapshots read it, too"))),
    }
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
        share(&Chain::read(&lowest).unwrap(), &dir.path().join("other")).unwrap();
        if Chain::read(&lowest).unwrap().is_shared().unwrap() {
            assert_eq!(open(), Err(ErrorKind::ResourceBusy));
        }
        add_layer(&lowest, 3, SIZE).unwrap();
        assert_eq!(open(), Ok(1));
        std::fs::write(dir.path().join("data.img.2"), "no layer").unwrap();
        assert_eq!(open(), Err(ErrorKind::InvalidData));
    }
}
