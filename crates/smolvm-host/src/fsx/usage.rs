//! What a tree takes on the disk.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::FsError;

/// Bytes of disk that a file, or a directory and all below it, takes: blocks, not lengths, and no link followed. A file
/// with several names counts once. What goes away while one looks counts as nothing.
pub fn disk_usage(path: &Path) -> Result<u64, FsError> {
    Tally::default().add(path)
}

/// Counts several trees, and what they share with the first of them that has it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Device and inode of every file with several names that was counted.
    seen: HashSet<(u64, u64)>,
}

impl Tally {
    /// Bytes of disk that are below this path and were not counted yet.
    pub fn add(&mut self, path: &Path) -> Result<u64, FsError> {
        let gone = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
        let file = match std::fs::symlink_metadata(path) {
            Ok(file) => file,
            Err(e) if gone(&e) => return Ok(0),
            Err(e) => return Err(FsError::on("look at", path)(e)),
        };
        if !file.is_dir() && file.nlink() > 1 && !self.seen.insert((file.dev(), file.ino())) {
            return Ok(0);
        }
        let mut bytes = file.blocks() * 512;
        if file.is_dir() {
            let entries = match std::fs::read_dir(path) {
                Ok(entries) => entries,
                Err(e) if gone(&e) => return Ok(bytes),
                Err(e) => return Err(FsError::on("read", path)(e)),
            };
            for entry in entries {
                bytes += self.add(&entry.map_err(FsError::on("read", path))?.path())?;
            }
        }
        Ok(bytes)
    }
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
        std::fs::hard_link(deep.join("file"), dir.path().join("again")).unwrap();
        let bytes = disk_usage(dir.path()).unwrap();
        assert!((100_000..190_000).contains(&bytes), "{bytes}");
        assert_eq!(disk_usage(Path::new("/nonexistent")).unwrap(), 0);
    }
    /// The first that has it has it: the parts add up to the whole.
    #[test]
    fn what_two_trees_share_is_counted_with_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for tree in [&one, &two] {
            std::fs::create_dir(tree).unwrap();
        }
        std::fs::write(one.join("file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(one.join("file"), two.join("file")).unwrap();
        let mut tally = Tally::default();
        let parts = [tally.add(&one).unwrap(), tally.add(&two).unwrap()];
        assert!(parts[0] > 100_000 && parts[1] < 50_000, "{parts:?}");
        let own = std::fs::symlink_metadata(dir.path()).unwrap().blocks() * 512;
        assert_eq!(disk_usage(dir.path()).unwrap(), parts.iter().sum::<u64>() + own);
    }
}
