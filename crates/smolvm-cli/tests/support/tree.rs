//! A directory tree as a value, to be compared byte for byte.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files larger than this are compared by size, blocks and time of change.
const WHOLE: u64 = 4 << 20;

/// Everything beneath `directory`: kind, mode and content by path. Caches are left out, and what
/// `SQLite` keeps in shared memory for its readers.
pub(crate) fn tree(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = path.symlink_metadata() else { continue };
            let relative = path.strip_prefix(directory).expect("beneath").to_string_lossy().into_owned();
            if relative == "cache" || relative.ends_with(".db-shm") {
                continue;
            }
            let text = if meta.is_dir() {
                open.push(path);
                format!("directory {:o}", meta.mode())
            } else if !meta.is_file() {
                format!("special {:o}", meta.mode())
            } else if meta.len() > WHOLE {
                format!("file {:o} {} bytes {} blocks {}.{}", meta.mode(), meta.len(), meta.blocks(), meta.mtime(), meta.mtime_nsec())
            } else {
                let bytes = std::fs::read(&path).unwrap_or_default();
                // An empty log of what is not in the database yet says the same as none.
                if relative.ends_with(".db-wal") && bytes.is_empty() {
                    continue;
                }
                format!("file {:o} {bytes:?}", meta.mode())
            };
            found.insert(relative, text);
        }
    }
    found
}
