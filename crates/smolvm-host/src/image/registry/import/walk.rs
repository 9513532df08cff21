//! A directory of this host as a layer: every entry beneath its descriptor, in the order of its bytes.
//!
//! ```text
//!   names, sorted ─► one entry ─► its kind, owner, times, attributes ─► LayerWriter ─► how much a layer may have ─► file
//!                      │ file       where it has content, how long that is: does it fit, is there room?
//!                      └ mount      a directory without anything in it, or nothing at all
//! ```
//!
//! Every path is looked up from the descriptor of the root, and the kernel refuses links, ways out and other file systems on it: whoever
//! renames within the tree meanwhile gets an error or a wrong tree, and never a file from outside. Nobody asks what is mounted: behind a
//! mount there may be a server that went away.

mod content;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, StatxFlags, fstat, getxattr, listxattr, openat, openat2, readlinkat,
    statx,
};
use rustix::io::Errno;
use smolvm_oci::Capped;
use smolvm_oci::layer::{Attributes, EntryName, Kind, LayerWriter, Member, Meta, Time, WriteError, stays_behind};

use self::content::Content;
use super::error::{ImportError, not_taken};
use super::room::Room;
use crate::fsx::FsError;
use crate::image::error::ImageError;

/// Longest path.
const MAX_PATH: usize = 4095;
/// What the kernel gives at most of one attribute, or of all names.
const MAX_XATTR: usize = 64 << 10;
const WHITEOUT: &[u8] = b".wh.";
const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);
const BENEATH: ResolveFlags = WITHIN.union(ResolveFlags::NO_XDEV);

/// An entry that is not in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its path in the directory, escaped for people.
    pub entry: String,
    /// Why.
    pub why: SkippedWhy,
}

/// Why an entry is not in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkippedWhy {
    /// Nobody could answer on it.
    Socket,
    /// Something is mounted there. A directory is in the image, with nothing in it; anything else is not.
    Mounted,
    /// It is where this image is being made.
    OwnCache,
}

impl SkippedWhy {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "a socket",
            Self::Mounted => "another file system is mounted there",
            Self::OwnCache => "smolvm's own cache",
        }
    }
}

/// Where the layer grows.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// The cache, which is no part of it.
    pub(super) cache: &'a Path,
    /// Its file, for messages.
    pub(super) layer: &'a Path,
}

/// A name in a directory, and the kind that the directory says it has.
type Listed = (Vec<u8>, FileType);

/// A tree on its way into a layer.
struct Walk<'a, W> {
    root: OwnedFd,
    own: Option<(u64, u64)>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    target: Target<'a>,
    space: Room<'a>,
    out: &'a mut LayerWriter<Capped<W>>,
    skipped: Vec<Skipped>,
}

/// Writes everything beneath a directory; gives what was left out. Our own cache is, should it lie in there.
pub(super) fn walk<'a, W: Write>(
    directory: &Path,
    target: Target<'a>,
    out: &'a mut LayerWriter<Capped<W>>,
) -> Result<Vec<Skipped>, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty()).map_err(|errno| FsError::on("open", directory)(errno.into()))?;
    let own = rustix::fs::stat(target.cache).ok().map(|stat| identity(&stat));
    let mut walk = Walk { root, own, links: HashMap::new(), target, space: Room::of(target.cache), out, skipped: Vec::new() };
    // In reverse, for what is added last is taken first.
    let mut waiting = vec![(Vec::new(), FileType::Directory)];
    while let Some((path, kind)) = waiting.pop() {
        if let Some(names) = walk.entry(&path, kind)? {
            let join = |name: Vec<u8>| if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            waiting.extend(names.into_iter().rev().map(|(name, kind)| (join(name), kind)));
        }
    }
    Ok(walk.skipped)
}

impl<W: Write> Walk<'_, W> {
    /// Writes one entry; gives what is in it, sorted, if it is a directory to be looked into.
    fn entry(&mut self, path: &[u8], listed: FileType) -> Result<Option<Vec<Listed>>, ImageError> {
        self.space.ask(self.out.stream().passed(), 0)?;
        let entry = EntryName::of(path);
        if path.len() > MAX_PATH {
            return Err(ImportError::Deep { entry }.into());
        }
        if path.rsplit(|b| *b == b'/').next().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err(ImportError::Whiteout { entry }.into());
        }
        let handle = match self.open(path, BENEATH) {
            Err(Errno::XDEV) => return self.mounted(path, listed, &entry).map(|()| None),
            other => other.map_err(unreadable(&entry))?,
        };
        let stat = fstat(&handle).map_err(unreadable(&entry))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => {
                self.skip(&entry, SkippedWhy::Socket);
                Ok(None)
            }
            FileType::Directory => {
                self.write(path, Meta { xattrs: xattrs(&handle, &entry)?, ..meta(&stat) }, Kind::Directory, io::empty(), &entry)?;
                if Some(identity(&stat)) == self.own {
                    self.skip(&entry, SkippedWhy::OwnCache);
                    return Ok(None);
                }
                Ok(Some(names(&handle).map_err(unreadable(&entry))?))
            }
            _ => self.leaf(path, &handle, &stat, &entry).map(|()| None),
        }
    }

    /// Anything but a directory.
    fn leaf(&mut self, path: &[u8], handle: &OwnedFd, stat: &Stat, entry: &EntryName) -> Result<(), ImageError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&identity(stat)) {
                let kind = Kind::Link { target: first.clone() };
                return self.write(path, meta(stat), kind, io::empty(), entry);
            }
            self.links.insert(identity(stat), path.to_vec());
        }
        let meta = Meta { xattrs: xattrs(handle, entry)?, ..meta(stat) };
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(path, meta, handle, stat, entry),
            FileType::Symlink => Kind::Symlink { target: readlinkat(handle, c"", Vec::new()).map_err(unreadable(entry))?.into_bytes() },
            FileType::CharacterDevice => Kind::Char { major, minor },
            FileType::BlockDevice => Kind::Block { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        };
        self.write(path, meta, kind, io::empty(), entry)
    }

    fn file(&mut self, path: &[u8], meta: Meta, handle: &OwnedFd, before: &Stat, entry: &EntryName) -> Result<(), ImageError> {
        let size = u64::try_from(before.st_size).unwrap_or_default();
        let file = File::from(reopen(handle, OFlags::RDONLY).map_err(unreadable(entry))?);
        let left = self.out.stream().left();
        let content = Content::of(file, size, left).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => ImportError::Changed { entry: entry.clone() },
            _ => ImportError::Read { entry: entry.clone(), source },
        })?;
        let stored = content.stored();
        if stored > left {
            return Err(ImportError::TooLong { entry: entry.clone(), limit: self.out.stream().limit() }.into());
        }
        self.space.ask(self.out.stream().passed(), stored)?;
        self.write(path, meta, content.kind(), content, entry)?;
        // It was read in two passes, or in pieces: half old and half new would be what nobody ever had.
        let after = fstat(handle).map_err(unreadable(entry))?;
        if version(before) == version(&after) { Ok(()) } else { Err(ImportError::Changed { entry: entry.clone() }.into()) }
    }

    fn open(&self, path: &[u8], resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        openat2(&self.root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// What something is mounted on. A directory is written as nobody's, for what lies beneath the mount cannot be seen.
    fn mounted(&mut self, path: &[u8], listed: FileType, entry: &EntryName) -> Result<(), ImageError> {
        self.skip(entry, SkippedWhy::Mounted);
        let kind = match listed {
            FileType::Unknown => self.kind_of_mount(path).map_err(unreadable(entry))?,
            known => known,
        };
        if kind == FileType::Directory {
            self.write(path, Meta { mode: 0o755, ..Meta::default() }, Kind::Directory, io::empty(), entry)?;
        }
        Ok(())
    }

    /// Whether a directory is mounted, and so on one, where the directory above does not say: as the kernel knows it.
    fn kind_of_mount(&self, path: &[u8]) -> Result<FileType, Errno> {
        let handle = self.open(path, WITHIN)?;
        let stat = statx(&handle, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
        Ok(FileType::from_raw_mode(stat.stx_mode.into()))
    }

    fn skip(&mut self, entry: &EntryName, why: SkippedWhy) {
        self.skipped.push(Skipped { entry: entry.0.escape_ascii().to_string(), why });
    }

    fn write(&mut self, path: &[u8], meta: Meta, kind: Kind, content: impl io::Read, entry: &EntryName) -> Result<(), ImageError> {
        let path = match (&kind, path) {
            (Kind::Directory, b"") => b"./".to_vec(),
            (Kind::Directory, path) => [path, b"/"].concat(),
            (_, path) => path.to_vec(),
        };
        self.out.member(&Member { path, meta, kind }, content).map_err(|failed| match failed {
            WriteError::Read(source) => ImportError::Read { entry: entry.clone(), source }.into(),
            WriteError::Short => ImportError::Changed { entry: entry.clone() }.into(),
            WriteError::Xattr { name } => ImportError::Xattr { entry: entry.clone(), name: EntryName::of(name.as_bytes()) }.into(),
            WriteError::Write(source) => not_taken(source, entry, self.out.stream().limit(), FsError::on("write", self.target.layer)),
        })
    }
}

fn unreadable(entry: &EntryName) -> impl FnOnce(Errno) -> ImportError {
    move |errno| ImportError::Read { entry: entry.clone(), source: errno.into() }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// What every write to a file moves. The time of the change is the kernel's alone: nobody puts it back.
fn version(stat: &Stat) -> impl PartialEq + use<> {
    (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() },
        xattrs: Attributes::default(),
    }
}

/// The same thing, opened for something: a handle has no content.
fn reopen(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, of(handle), flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

fn of(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

fn names(directory: &OwnedFd) -> Result<Vec<Listed>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(names)
}

fn xattrs(handle: &OwnedFd, entry: &EntryName) -> Result<Attributes, ImportError> {
    let path = of(handle);
    let mut list = vec![0; MAX_XATTR];
    let length = match listxattr(&path, &mut list[..]) {
        Ok(length) => length,
        // A file system without any.
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(unreadable(entry)(errno)),
    };
    let mut found = BTreeMap::new();
    for name in list[..length].split(|b| *b == 0).filter(|name| !name.is_empty() && !stays_behind(name)) {
        let Ok(text) = std::str::from_utf8(name) else {
            return Err(ImportError::Xattr { entry: entry.clone(), name: EntryName::of(name) });
        };
        let mut value = vec![0; MAX_XATTR];
        match getxattr(&path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.insert(text.to_owned(), value);
            }
            // It went meanwhile, or is one of those that not everybody may read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(unreadable(entry)(errno)),
        }
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests;
