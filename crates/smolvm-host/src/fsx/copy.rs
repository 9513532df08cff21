//! Copies files without filling their holes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, seek};
use rustix::io::Errno;

use super::FsError;

/// Copies `from` to the new file `to` (mode 0600), data segments only; the length becomes `len`.
pub fn copy_sparse(from: &Path, to: &Path, len: u64) -> Result<(), FsError> {
    let source = File::open(from).map_err(FsError::on("open", from))?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(FsError::on("make", to))?;
    let copy = || -> Result<(), Errno> {
        ftruncate(&target, len)?;
        let mut at = 0;
        loop {
            let start = match seek(&source, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let end = seek(&source, SeekFrom::Hole(start))?;
            let (mut read_at, mut write_at) = (start, start);
            while read_at < end {
                let chunk = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
                if copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), chunk)? == 0 {
                    break;
                }
            }
            at = end;
        }
    };
    copy().map_err(|errno| FsError { action: "copy into", path: to.to_owned(), source: errno.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn content_is_kept_and_holes_stay_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&a).unwrap();
        file.write_all_at(b"head", 0).unwrap();
        file.write_all_at(b"tail", 64 << 20).unwrap();
        copy_sparse(&a, &b, 128 << 20).unwrap();
        let copy = File::open(&b).unwrap();
        let mut buf = [0; 4];
        copy.read_exact_at(&mut buf, 64 << 20).unwrap();
        assert_eq!(&buf, b"tail");
        let meta = copy.metadata().unwrap();
        assert_eq!(meta.len(), 128 << 20);
        assert!(meta.blocks() * 512 < 1 << 20);
        assert!(copy_sparse(&a, &b, 1).is_err(), "an existing file was overwritten");
    }
}
