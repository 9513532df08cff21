//! Removes a sandbox's directories: checked for their owner, renamed into the trash, then unlinked.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, openat, renameat_with, statat};
use rustix::io::Errno;
use smolvm_host::fsx::{create_private_dir, remove_tree, sync_dir};
use smolvm_host::random;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::teardown::Outcome;

use crate::error::io_code;
use crate::installation::Smolvm;
use crate::paths::OWNER;

/// Longest owner file that is read: a mark has at most 82 bytes.
const OWNER_CAP: u64 = 256;

/// Moves all of them away, makes that durable once, then unlinks. Returns the bytes freed as well.
pub(super) fn remove(vm: &Smolvm, kind: Kind, entries: &[&Entry]) -> (Vec<Outcome>, u64) {
    let parent_path = match kind {
        Kind::RunDir => vm.paths().run.clone(),
        Kind::StateDir | Kind::Process | Kind::Monitor | Kind::NftElements | Kind::Tap | Kind::Address | Kind::Mac | Kind::Uid => {
            vm.paths().sandboxes()
        }
    };
    // Run directories lie on another file system under root; they are small and lose nothing in a power cut.
    let trash_path = if kind == Kind::RunDir { vm.paths().run.join(".trash") } else { vm.paths().trash() };
    let fail_all = |e: &std::io::Error| (vec![Outcome::Failed { code: io_code(e), message: e.to_string() }; entries.len()], 0);
    let parent = match open_dir(&parent_path) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return (vec![Outcome::AlreadyGone; entries.len()], 0),
        Err(errno) => return fail_all(&errno.into()),
    };
    if let Err(e) = create_private_dir(&trash_path) {
        return fail_all(&e.source);
    }
    let trash = match open_dir(&trash_path) {
        Ok(fd) => fd,
        Err(errno) => return fail_all(&errno.into()),
    };
    let mut moved = Vec::new();
    let mut outcomes: Vec<Outcome> = entries
        .iter()
        .enumerate()
        .map(|(i, entry)| match move_away(vm, &parent, &trash, entry) {
            Ok(Moved::Away(name)) => {
                moved.push((i, name));
                Outcome::Released
            }
            Ok(Moved::Absent) => Outcome::AlreadyGone,
            Ok(Moved::Foreign(owner)) => Outcome::Refused { found_owner: owner },
            Err(e) => Outcome::Failed { code: io_code(&e), message: e.to_string() },
        })
        .collect();
    if kind == Kind::StateDir && !moved.is_empty() {
        // A failed sync means the renames may come back after a power cut; the rows then still stand.
        if let Err(e) = sync_dir(&trash_path).and_then(|()| sync_dir(&parent_path)) {
            return fail_all(&e.source);
        }
    }
    let mut freed = 0;
    for (i, name) in moved {
        match remove_tree(&trash, OsStr::new(&name)) {
            Ok(removed) => freed += removed.bytes,
            Err(e) => outcomes[i] = Outcome::Failed { code: io_code(&e.source), message: format!("{e}: {}", e.source) },
        }
    }
    if kind == Kind::RunDir {
        let _ = rustix::fs::unlinkat(CWD, &trash_path, AtFlags::REMOVEDIR);
    }
    (outcomes, freed)
}

enum Moved {
    Away(String),
    Absent,
    Foreign(String),
}

fn move_away(vm: &Smolvm, parent: &OwnedFd, trash: &OwnedFd, entry: &Entry) -> Result<Moved, std::io::Error> {
    // The entry's key is the sandbox's id for both kinds; anything else in the ledger is not followed.
    let name = entry.sandbox.as_str();
    let dir = match openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Moved::Absent),
        Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Moved::Foreign("no directory of smolvm's".to_owned())),
        Err(errno) => return Err(errno.into()),
    };
    match owner(&dir)? {
        // A crash between mkdir and the owner file: the name is recorded as ours, and nothing else is in it.
        None => {}
        Some(text) if text == vm.mark(&entry.sandbox).to_string() => {}
        Some(text) => return Ok(Moved::Foreign(text)),
    }
    let token = u64::from_le_bytes(random::bytes::<8>()?);
    let target = format!("{name}.{token:016x}");
    renameat_with(parent, name, trash, target.as_str(), RenameFlags::NOREPLACE)?;
    Ok(Moved::Away(target))
}

/// The text of a directory's owner file, if it has one.
pub(super) fn owner(dir: impl AsFd) -> Result<Option<String>, std::io::Error> {
    match openat(dir, OWNER, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
        Ok(fd) => {
            let mut text = String::new();
            File::from(fd).take(OWNER_CAP).read_to_string(&mut text)?;
            Ok(Some(text.trim_end().to_owned()))
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

fn open_dir(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
