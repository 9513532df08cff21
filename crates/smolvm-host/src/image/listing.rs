//! The names in a directory of the cache.

use std::path::Path;

use crate::fsx::FsError;

/// The names that `wanted` accepts, sorted, so that whoever takes several locks takes them in one order;
/// none where the directory is absent. Names that are no UTF-8 are none of ours.
pub(super) fn names(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, FsError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(FsError::on("read", directory)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(FsError::on("read", directory))?.file_name();
        names.extend(name.to_str().filter(|name| wanted(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}
