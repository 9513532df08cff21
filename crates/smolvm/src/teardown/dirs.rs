//! Removes a sandbox's directories: checked for their owner, renamed into the trash, then unlinked.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, openat, renameat_with, statat};
use rustix::io::{Errno, read, retry_on_intr};
use smolvm_host::effect::perform;
use smolvm_host::fsx::{FsError, Removed, create_private_dir, patiently, remove_tree, sync_dir};
use smolvm_host::random;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::name::Mark;
use smolvm_model::teardown::Outcome;

use crate::error::io_code;
use crate::installation::Smolvm;
use crate::paths::OWNER;

/// Longest owner file that is read: a mark has at most 82 bytes.
const OWNER_CAP: usize = 256;
/// Run directories on their way out; it is there only while there are any.
const TRASH: &str = ".trash";
/// How often the trash is made anew: each time, another command was done with its own in that very moment.
const TRIES: u32 = 64;
/// Threads that unlink, at most. More than processors, for most of it is waiting: a file system that discards or
/// commits at once lets each file wait for the device, and the device takes many requests at a time.
const UNLINKERS: usize = 8;
/// Directories for which a thread of its own pays.
const PER_UNLINKER: usize = 16;
/// How long one directory may take. Unlinking a disk of many gigabytes on a slow device takes seconds; what takes longer lies
/// on a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Moves all of them away, makes that durable once, then unlinks. Returns the bytes freed as well.
pub(super) fn remove(vm: &Smolvm, kind: Kind, entries: &[&Entry]) -> (Vec<Outcome>, u64) {
    remove_within(vm, kind, entries, PATIENCE)
}

fn remove_within(vm: &Smolvm, kind: Kind, entries: &[&Entry], patience: Duration) -> (Vec<Outcome>, u64) {
    let parent_path = match kind {
        Kind::RunDir => vm.paths().run.clone(),
        Kind::StateDir | Kind::Process | Kind::Monitor | Kind::NftElements | Kind::Tap | Kind::Address | Kind::Mac | Kind::Uid => {
            vm.paths().sandboxes()
        }
    };
    // Run directories lie on another file system under root; they are small and lose nothing in a power cut.
    let trash_path = if kind == Kind::RunDir { vm.paths().run.join(TRASH) } else { vm.paths().trash() };
    let fail_all = |e: &std::io::Error| (vec![Outcome::Failed { code: io_code(e), message: e.to_string() }; entries.len()], 0);
    let parent = match open_dir(&parent_path) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return (vec![Outcome::AlreadyGone; entries.len()], 0),
        Err(errno) => return fail_all(&errno.into()),
    };
    let trash = match Trash::open(trash_path.clone()) {
        Ok(trash) => Arc::new(trash),
        Err(e) => return fail_all(&e),
    };
    // Drawn once for all of them: the names before it differ already.
    let token = match random::bytes::<8>() {
        Ok(bytes) => u64::from_le_bytes(bytes),
        Err(e) => return fail_all(&e),
    };
    let mut moved = Vec::new();
    let mut outcomes: Vec<Outcome> = move_all(vm, parent, &trash, token, entries, patience)
        .into_iter()
        .enumerate()
        .map(|(i, entry)| match entry {
            None => unreachable(patience),
            Some(Ok(Moved::Away(name))) => {
                moved.push((i, name));
                Outcome::Released
            }
            Some(Ok(Moved::Absent)) => Outcome::AlreadyGone,
            Some(Ok(Moved::Elsewhere(mark))) => {
                Outcome::Failed { code: ErrorCode::Refused, message: format!("made under another user or path: {mark}") }
            }
            Some(Ok(Moved::Foreign(owner))) => Outcome::Refused { found_owner: owner },
            Some(Err(e)) => Outcome::Failed { code: io_code(&e), message: e.to_string() },
        })
        .collect();
    if kind == Kind::StateDir && !moved.is_empty() {
        // A failed sync means the renames may come back after a power cut; the rows then still stand.
        if let Err(e) = sync_dir(&trash_path).and_then(|()| sync_dir(&parent_path)) {
            return fail_all(&e.source);
        }
    }
    let mut freed = 0;
    let (places, names): (Vec<usize>, Vec<String>) = moved.into_iter().unzip();
    let emptied = perform(Effect::EmptyTrash, |_| {
        for (i, removal) in places.iter().zip(unlink_all(&trash, names.clone(), patience)) {
            match removal {
                Some(Ok(removed)) => freed += removed.bytes,
                Some(Err(e)) => outcomes[*i] = Outcome::Failed { code: io_code(&e.source), message: format!("{e}: {}", e.source) },
                None => outcomes[*i] = unreachable(patience),
            }
        }
        if kind == Kind::RunDir {
            super::remove_run_trash(vm);
        }
        Ok(())
    });
    match emptied {
        Ok(()) => (outcomes, freed),
        Err(e) => fail_all(&e),
    }
}

/// What is said of a directory that was not done with in time. Its entry stays, and whoever comes later finds it.
fn unreachable(patience: Duration) -> Outcome {
    Outcome::Failed { code: ErrorCode::Unreachable, message: no_answer(patience) }
}

fn no_answer(patience: Duration) -> String {
    format!("the file system that it lies on did not answer within {} s", patience.as_secs())
}

/// Moves all of them away, one after the other; `None` is one that was not answered for.
fn move_all(
    vm: &Smolvm,
    parent: OwnedFd,
    trash: &Arc<Trash>,
    token: u64,
    entries: &[&Entry],
    patience: Duration,
) -> Vec<Option<std::io::Result<Moved>>> {
    let (trash, marked) = (Arc::clone(trash), |entry: &&Entry| vm.mark(&entry.sandbox));
    patiently(entries.iter().map(marked).collect(), 1, patience, move |mark| move_away(&parent, &trash, token, mark))
}

/// Unlinks all of them, each whatever becomes of the others; the results come in their order, however many threads there are.
fn unlink_all(trash: &Arc<Trash>, moved: Vec<String>, patience: Duration) -> Vec<Option<Result<Removed, FsError>>> {
    let threads = UNLINKERS.min(moved.len().div_ceil(PER_UNLINKER));
    let trash = Arc::clone(trash);
    patiently(moved, threads, patience, move |name| remove_tree(&*trash.handle(), OsStr::new(name)))
}

/// Where directories go before they are unlinked.
struct Trash {
    path: PathBuf,
    handle: Mutex<Arc<OwnedFd>>,
}

impl Trash {
    fn open(path: PathBuf) -> std::io::Result<Self> {
        Ok(Self { handle: Mutex::new(Arc::new(open_trash(&path)?)), path })
    }

    fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.handle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another command that had emptied it took it away.
    fn make_anew(&self) -> std::io::Result<()> {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(open_trash(&self.path)?);
        Ok(())
    }
}

/// Unlinks what anybody left in the trash of run directories, and the trash.
///
/// What cannot be unlinked, or somebody puts there meanwhile, keeps the directory for the next time.
pub(crate) fn remove_run_trash(vm: &Smolvm) {
    let path = vm.paths().run.join(TRASH);
    let Ok(trash) = open_dir(&path) else { return };
    for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
        let _ = remove_tree(&trash, &entry.file_name());
    }
    let _ = rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR);
}

/// What became of something in the trash, or why it is still there.
pub(crate) type Swept = Result<Removed, (ErrorCode, String)>;

/// Unlinks what an earlier cleaner had moved away when it was killed: each name, and what became of it.
pub(crate) fn sweep(dir: &Path) -> Vec<(OsString, Swept)> {
    let names: Vec<OsString> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    // What changes nothing is no effect.
    if names.is_empty() {
        return Vec::new();
    }
    perform(Effect::EmptyTrash, |_| Ok::<_, std::io::Error>(sweep_names(dir, names.clone())))
        .unwrap_or_else(|e| names.iter().map(|name| (name.clone(), Err((io_code(&e), e.to_string())))).collect())
}

fn sweep_names(dir: &Path, names: Vec<OsString>) -> Vec<(OsString, Swept)> {
    let Ok(trash) = open_dir(dir) else { return Vec::new() };
    let swept = patiently(names.clone(), UNLINKERS.min(names.len()), PATIENCE, move |name| remove_tree(&trash, name));
    let told = |swept: Option<Result<Removed, FsError>>| match swept {
        None => Err((ErrorCode::Unreachable, no_answer(PATIENCE))),
        Some(Err(e)) => Err((io_code(&e.source), e.source.to_string())),
        Some(Ok(removed)) => Ok(removed),
    };
    names.into_iter().zip(swept.into_iter().map(told)).collect()
}

/// Makes the trash and opens it; another command that has emptied it may take it away in between.
fn open_trash(path: &Path) -> Result<OwnedFd, std::io::Error> {
    let mut tries = 1;
    loop {
        match create_private_dir(path).map_err(|e| e.source).and_then(|()| open_dir(path).map_err(Into::into)) {
            // "Exists" is what making it says when it was there for `mkdir`, and gone for the look at what is there.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) && tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

enum Moved {
    Away(String),
    Absent,
    /// Of the same sandbox, but of an installation with another id.
    Elsewhere(Mark),
    Foreign(String),
}

fn move_away(parent: &OwnedFd, trash: &Trash, token: u64, mark: &Mark) -> Result<Moved, std::io::Error> {
    // The entry's key is the sandbox's id for both kinds; anything else in the ledger is not followed.
    let name = mark.sandbox.as_str();
    let dir = match openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Moved::Absent),
        Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Moved::Foreign("no directory of smolvm's".to_owned())),
        Err(errno) => return Err(errno.into()),
    };
    match owner(&dir)? {
        // A crash between mkdir and the owner file: the name is recorded as ours, and nothing else is in it.
        None => {}
        Some(text) if text == mark.to_string() => {}
        Some(text) => {
            return Ok(match text.parse::<Mark>() {
                // The state directory was moved, or another user works on it: it is this very disk, and nobody else's.
                Ok(other) if other.sandbox == mark.sandbox => Moved::Elsewhere(other),
                Ok(_) | Err(_) => Moved::Foreign(text),
            });
        }
    }
    let target = format!("{name}.{token:016x}");
    let mut tries = 1;
    loop {
        match renameat_with(parent, name, &*trash.handle(), target.as_str(), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Moved::Away(target)),
            // Either side may have gone since it was opened.
            Err(Errno::NOENT) if matches!(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) => return Ok(Moved::Absent),
            Err(Errno::NOENT) if tries < TRIES => {
                tries += 1;
                trash.make_anew()?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The text of a directory's owner file, if it has one.
pub(super) fn owner(dir: impl AsFd) -> Result<Option<String>, std::io::Error> {
    match openat(dir, OWNER, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Ok(fd) => {
            // A regular file gives all it has, up to the cap, in one read.
            let mut bytes = [0; OWNER_CAP];
            let length = retry_on_intr(|| read(&fd, &mut bytes))?;
            Ok(Some(String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned()))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the directory is still there and ours.
pub(super) fn still_there(vm: &Smolvm, entry: &Entry) -> Option<String> {
    let path = if entry.kind == Kind::RunDir { vm.paths().run_dir(&entry.sandbox) } else { vm.paths().sandbox(&entry.sandbox) };
    match statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR) => None,
        Ok(_) | Err(_) => Some(path.display().to_string()),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests;
