//! What a tree takes on the disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::FsError;

/// Bytes of disk that a file, or a directory and all below it, takes: blocks, not lengths, and no link followed.
/// What goes away while one looks counts as nothing.
pub fn disk_usage(path: &Path) -> Result<u64, FsError> {
    let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    let seen = match std::fs::symlink_metadata(path) {
        Ok(seen) => seen,
        Err(e) if gone(&e) => return Ok(0),
        Err(e) => return Err(FsError::on("look at", path)(e)),
    };
    let mut bytes = seen.blocks() * 512;
    if seen.is_dir() {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(e) if gone(&e) => return Ok(bytes),
            Err(e) => return Err(FsError::on("read", path)(e)),
        };
        for entry in entries {
            bytes += disk_usage(&entry.map_err(FsError::on("read", path))?.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_count_and_holes_and_links_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), vec![1; 100_000]).unwrap();
        std::fs::File::create(deep.join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", deep.join("link")).unwrap();
        let bytes = disk_usage(dir.path()).unwrap();
        assert!((100_000..500_000).contains(&bytes), "{bytes}");
        assert_eq!(disk_usage(Path::new("/nonexistent")).unwrap(), 0);
    }
}
