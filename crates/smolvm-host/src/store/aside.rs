//! Gives a damaged database another name, so that a new one can be made in its place.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::effect::Permit;
use crate::fsx::{FsError, sync_dir};

/// Renames the database at `path` and what belongs to it; gives back its new name. Nothing is deleted.
///
/// # Errors
/// If a file cannot be renamed.
pub fn set_aside(_permit: &Permit, path: &Path) -> Result<PathBuf, FsError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{now}"));
    // The log first: one that stayed behind would be worked into the database that is made next.
    for part in ["-wal", "-shm", ""] {
        let (from, to) = (with(path.as_os_str().to_owned(), part), with(aside.clone(), part));
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(FsError::on("set aside", Path::new(&from))(errno.into())),
        }
    }
    path.parent().map_or(Ok(()), sync_dir)?;
    Ok(PathBuf::from(aside))
}

fn with(mut name: OsString, part: &str) -> OsString {
    name.push(part);
    name
}

#[cfg(test)]
mod tests {
    use smolvm_model::effect::Effect;

    use super::*;
    use crate::effect::permitted;
    use crate::store::Store;

    #[test]
    fn all_of_it_goes_and_a_new_one_begins_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        for (part, text) in [("", "no database"), ("-wal", "no log"), ("-shm", "no index")] {
            std::fs::write(with(path.as_os_str().to_owned(), part), text).unwrap();
        }
        let aside = permitted(Effect::SetAside, |permit| set_aside(permit, &path)).unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "no database");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        assert!(!path.exists());
        let store = Store::open(&path).unwrap();
        assert!(store.table().unwrap().sandboxes.is_empty());
    }
}
