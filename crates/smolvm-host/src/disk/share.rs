//! Gives a disk to another sandbox, and puts and merges layers.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::ioctl_ficlone;

use super::chain::{Chain, layer_path};
use super::{lease, merge};
use crate::fsx::{FsError, copy_data, sync_dir};

/// Puts an empty layer of that number over a disk of this size; one of that number that is there already, and has nothing
/// in it, is replaced. It and its name have reached the disk afterwards: a guest may be promised that its data did.
pub fn add_layer(lowest: &Path, number: u32, size: u64) -> Result<(), FsError> {
    write_layer(lowest, number, size, &[])
}

/// Writes all that the layers of these numbers have into one, which takes the place of the last of them.
///
/// The chain reads the same before, meanwhile and afterwards, and also without the others.
pub fn merge_layers(chain: &Chain, numbers: &[u32], size: u64) -> Result<(), FsError> {
    let Some(last) = numbers.last() else { return Ok(()) };
    let open = |number: &u32| {
        let path = chain.path(*number);
        File::open(&path).map_err(FsError::on("open", &path))
    };
    let layers = numbers.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    write_layer(&chain.path(0), *last, size, &layers)
}

fn write_layer(lowest: &Path, number: u32, size: u64, layers: &[File]) -> Result<(), FsError> {
    let (path, new) = (layer_path(lowest, number), unfinished(lowest));
    let made = make(&new)?;
    let written = merge::write(&made, size, layers).map_err(FsError::on("write a layer into", &new));
    let synced = written.and_then(|()| made.sync_all().map_err(FsError::on("sync", &new)));
    if let Err(e) = synced.and_then(|()| std::fs::rename(&new, &path).map_err(FsError::on("name", &path))) {
        let _ = std::fs::remove_file(&new);
        return Err(e);
    }
    lowest.parent().map_or(Ok(()), sync_dir)
}

/// A file that is not whole yet, and in no chain; one that a killed command left is written over.
fn unfinished(lowest: &Path) -> PathBuf {
    let mut name = lowest.file_name().unwrap_or_default().to_owned();
    name.push(".layer");
    lowest.with_file_name(name)
}

fn make(path: &Path) -> Result<File, FsError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(FsError::on("remove", path)(e)),
        Ok(()) | Err(_) => {}
    }
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(FsError::on("make", path))
}

/// Whether the file system can give a file the blocks of another: tried, with two small files in this directory.
pub fn can_clone(directory: &Path) -> bool {
    let (one, two) = (directory.join("clone.1"), directory.join("clone.2"));
    let tried = make(&one).and_then(|from| {
        std::os::unix::fs::FileExt::write_all_at(&from, &[1; 4096], 0).map_err(FsError::on("write", &one))?;
        let to = make(&two)?;
        ioctl_ficlone(&to, &from).map_err(|errno| FsError::on("clone into", &two)(errno.into()))
    });
    for path in [one, two] {
        let _ = std::fs::remove_file(path);
    }
    tried.is_ok()
}

/// Takes the names of these layers away; one that is gone already is as well. The lowest is no layer, and stays.
pub fn remove_layers(chain: &Chain, numbers: &[u32]) -> Result<(), FsError> {
    numbers.iter().filter(|number| **number != 0).try_for_each(|number| {
        let path = chain.path(*number);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(FsError::on("remove", &path)(e)),
            Ok(()) | Err(_) => Ok(()),
        }
    })
}

/// Gives another disk all files of this one. The highest is cloned where that can be; whatever cannot be cloned is named a
/// second time if the kernel says that nobody writes it, and copied otherwise: then `room` is asked first whether there is
/// any for so many bytes, for nobody could tell before how it would come.
///
/// What was cloned or copied has not reached the disk yet, as the others have as far as their writer wanted it: [`Chain::sync`].
pub fn share<E: From<FsError>>(chain: &Chain, other: &Path, room: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
    for number in chain.numbers() {
        let (from, to) = (chain.path(number), layer_path(other, number));
        let is_there = (number == chain.top() && clone(&from, &to)?) || name_again(&from, &to)?;
        if !is_there {
            copy(&from, &to, &room)?;
        }
    }
    Ok(())
}

fn clone(from: &Path, to: &Path) -> Result<bool, FsError> {
    let source = File::open(from).map_err(FsError::on("open", from))?;
    let target = make(to)?;
    match ioctl_ficlone(&target, &source) {
        Ok(()) => Ok(true),
        Err(_) => std::fs::remove_file(to).map(|()| false).map_err(FsError::on("remove", to)),
    }
}

/// False: it has to be copied.
fn name_again(from: &Path, to: &Path) -> Result<bool, FsError> {
    let source = File::open(from).map_err(FsError::on("open", from))?;
    if !lease::has_no_writer(&source).unwrap_or(false) {
        return Ok(false);
    }
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        // Done before, by hands that did not come to say so.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(to).and_then(|()| std::fs::hard_link(from, to)).map(|()| true).map_err(FsError::on("link", to))
        }
        // Another file system, one without links, or a file with as many names as it can have.
        Err(e) if cannot_link(&e) => Ok(false),
        Err(e) => Err(FsError::on("link", to)(e)),
    }
}

fn cannot_link(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(e), Some(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP | Errno::NOSYS))
}

fn copy<E: From<FsError>>(from: &Path, to: &Path, room: impl Fn(u64) -> Result<(), E>) -> Result<(), E> {
    let source = File::open(from).map_err(FsError::on("open", from))?;
    let seen = source.metadata().map_err(FsError::on("look at", from))?;
    room(seen.blocks() * 512)?;
    let target = make(to)?;
    Ok(copy_data(&source, &target, seen.len()).map_err(FsError::on("copy into", to))?)
}

#[cfg(test)]
mod tests;
