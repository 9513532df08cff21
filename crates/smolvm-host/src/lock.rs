//! Advisory locks on files (flock): one per sandbox, held for the length of an operation.
//!
//! The lock file is removed by whoever deletes the sandbox, while it holds the lock; whoever waited
//! for the old file then notices that the name leads elsewhere and tries again. So a lock that was
//! taken is always a lock on the file that the name leads to.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use smolvm_model::effect::Effect;

use crate::effect::perform;

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds it, and the wait is over.
    #[error("another smolvm command is at work here")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be made or opened.
    #[error("the lock file {} cannot be used", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// Takes the lock at `path`, waiting at most `wait`.
pub fn take(path: &Path, wait: Duration) -> Result<Lock, LockError> {
    take_by(path, wait, File::try_lock)
}

/// Takes the lock at `path` beside others who take it like this, waiting at most `wait`; whoever takes it alone waits for all of them.
pub fn take_shared(path: &Path, wait: Duration) -> Result<Lock, LockError> {
    take_by(path, wait, File::try_lock_shared)
}

type Try = fn(&File) -> Result<(), TryLockError>;

fn take_by(path: &Path, wait: Duration, attempt: Try) -> Result<Lock, LockError> {
    let deadline = Instant::now() + wait;
    let fail = |source| LockError::Io { path: path.to_owned(), source };
    loop {
        let file = open_or_make(path).map_err(fail)?;
        if !wait_by(&file, deadline, attempt).map_err(fail)? {
            return Err(LockError::Busy { path: path.to_owned() });
        }
        if leads_here(&file, path).map_err(fail)? {
            return Ok(Lock { file, path: path.to_owned() });
        }
    }
}

/// Takes the lock on what is open, a directory too; false if somebody else holds it until `deadline`.
pub(crate) fn wait_for(file: &File, deadline: Instant) -> std::io::Result<bool> {
    wait_by(file, deadline, File::try_lock)
}

fn wait_by(file: &File, deadline: Instant, attempt: Try) -> std::io::Result<bool> {
    // flock has no timed form; the pause grows so that a long wait costs little.
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt(file) {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(source)) => return Err(source),
            Err(TryLockError::WouldBlock) => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether somebody holds the lock at `path`; a missing file is held by nobody.
pub fn is_held(path: &Path) -> Result<bool, LockError> {
    let fail = |source| LockError::Io { path: path.to_owned(), source };
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(fail(e)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(e)) => Err(fail(e)),
    }
}

impl Lock {
    /// Removes the lock file and lets go; for the deletion of what it guards.
    pub fn remove(self) -> Result<(), LockError> {
        let removed = perform(Effect::RemoveLockFile, |_| match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        });
        removed.map_err(|source| LockError::Io { path: self.path, source })
    }

    /// The open file, to hand to a process that shall hold the lock on.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn open_or_make(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            perform(Effect::LockFile, |_| options.clone().create(true).truncate(false).open(path))
        }
        other => other,
    }
}

fn leads_here(file: &File, path: &Path) -> std::io::Result<bool> {
    let here = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_once_and_free_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let held = take(&path, Duration::ZERO).unwrap();
        assert!(matches!(take(&path, Duration::from_millis(5)), Err(LockError::Busy { .. })));
        assert!(is_held(&path).unwrap());
        drop(held);
        assert!(!is_held(&path).unwrap());
        take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn those_who_share_it_keep_whoever_wants_it_alone_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let both = [(); 2].map(|()| take_shared(&path, Duration::ZERO).unwrap());
        assert!(matches!(take(&path, Duration::from_millis(5)), Err(LockError::Busy { .. })));
        drop(both);
        let alone = take(&path, Duration::ZERO).unwrap();
        assert!(matches!(take_shared(&path, Duration::from_millis(5)), Err(LockError::Busy { .. })));
        alone.remove().unwrap();
        take_shared(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_removed_lock_file_is_not_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = take(&path, Duration::ZERO).unwrap();
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || take(&path, Duration::from_secs(5)).unwrap()
        });
        first.remove().unwrap();
        let second = waiter.join().unwrap();
        assert!(matches!(take(&path, Duration::ZERO), Err(LockError::Busy { .. })), "two holders");
        drop(second);
    }

    #[test]
    fn a_symlink_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("l")).unwrap();
        assert!(matches!(take(&dir.path().join("l"), Duration::ZERO), Err(LockError::Io { .. })));
    }
}
