//! Whether the file systems that everything stands on answer at all.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use smolvm_host::fsx::patiently;
use smolvm_model::error_code::ErrorCode;

use crate::error::Error;
use crate::paths::Paths;

/// How long opening a directory may take. A busy disk needs a part of a second, a network file system on a bad line a few.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens each of the installation's directories: one that does not answer is told with its path, before a command
/// waits for it without end. One that is not there, or may not be opened, is for the command to find.
///
/// For commands alone: a monitor has no threads.
pub fn check_reachable(paths: &Paths) -> Result<(), Error> {
    check_within(paths, PATIENCE)
}

/// The same for one file, before it is read.
pub fn check_file_reachable(path: &Path) -> Result<(), Error> {
    check_places(&[path.to_owned()], PATIENCE)
}

fn check_within(paths: &Paths, patience: Duration) -> Result<(), Error> {
    check_places(&[paths.state.clone(), paths.run.clone(), paths.cache.clone()], patience)
}

fn check_places(places: &[PathBuf], patience: Duration) -> Result<(), Error> {
    // Without waiting for whoever writes into a pipe.
    let open = |path: &PathBuf| drop(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()));
    let answers = patiently(places.to_vec(), 1, patience, open);
    match places.iter().zip(answers).find(|(_, answer)| answer.is_none()) {
        None => Ok(()),
        Some((path, _)) => {
            let message = format!("the file system of {} did not answer within {} s", path.display(), patience.as_secs());
            Err(Error::new(ErrorCode::Unreachable, message).hint("mount; dmesg | tail"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_does_not_answer_is_named_and_one_that_is_not_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::beneath(dir.path());
        assert!(check_within(&paths, Duration::from_mins(1)).is_ok());
        std::fs::create_dir_all(&paths.run).unwrap();
        testkit::Netns::new().unwrap().enter(|| {
            let mount = testkit::HungMount::new(&paths.run);
            let e = check_within(&paths, Duration::from_millis(100)).unwrap_err();
            assert!(e.code == ErrorCode::Unreachable && e.one_line().contains(&*paths.run.to_string_lossy()), "{e:?}");
            let file = paths.run.join("config.toml");
            assert_eq!(check_places(&[file], Duration::from_millis(100)).unwrap_err().code, ErrorCode::Unreachable);
            drop(mount);
        });
        assert!(check_within(&paths, Duration::from_mins(1)).is_ok());
    }
}
