//! A directory of this host as a layer: every entry beneath its descriptor, in the order of its bytes.
//!
//! Every path is looked up from the descriptor of the root, and the kernel refuses links, ways out and other file systems on it: whoever
//! renames within the tree meanwhile gets an error or a wrong tree, and never a file from outside.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, getxattr, listxattr, openat, openat2, readlinkat};
use rustix::io::Errno;
use smolvm_oci::layer::{EntryName, Kind, LayerWriter, Member, Meta, Time};

use super::ImportError;
use crate::fsx::FsError;
use crate::image::error::ImageError;

/// Longest path.
const MAX_PATH: usize = 4095;
/// What the kernel gives at most of one attribute, or of all names.
const MAX_XATTR: usize = 64 << 10;
/// Attributes that belong to the host, or would be orders to a guest's overlay.
const NOT_TAKEN: [&str; 3] = ["security.selinux", "trusted.overlay.", "user.overlay."];
const WHITEOUT: &[u8] = b".wh.";
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

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
    /// Another file system is mounted there; the directory itself is there.
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

/// A tree on its way into a layer.
struct Walk<'a, W> {
    root: OwnedFd,
    own: Option<(u64, u64)>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    out: &'a mut LayerWriter<W>,
    skipped: Vec<Skipped>,
}

/// Writes everything beneath a directory; gives what was left out. Our own cache is, should it lie in there.
pub(super) fn walk<W: Write>(directory: &Path, cache: &Path, out: &mut LayerWriter<W>) -> Result<Vec<Skipped>, ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, directory, flags, Mode::empty()).map_err(|errno| FsError::on("open", directory)(errno.into()))?;
    let own = rustix::fs::stat(cache).ok().map(|stat| identity(&stat));
    let mut walk = Walk { root, own, links: HashMap::new(), out, skipped: Vec::new() };
    // In reverse, for what is added last is taken first.
    let mut waiting = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        if let Some(names) = walk.entry(&path)? {
            let join = |name: Vec<u8>| if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
            waiting.extend(names.into_iter().rev().map(join));
        }
    }
    Ok(walk.skipped)
}

impl<W: Write> Walk<'_, W> {
    /// Writes one entry; gives the names in it, sorted, if it is a directory to be looked into.
    fn entry(&mut self, path: &[u8]) -> Result<Option<Vec<Vec<u8>>>, ImageError> {
        let entry = EntryName::of(path);
        if path.len() > MAX_PATH {
            return Err(ImportError::Deep { entry }.into());
        }
        if path.rsplit(|b| *b == b'/').next().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err(ImportError::Whiteout { entry }.into());
        }
        let unreadable = |errno: Errno| ImportError::Read { entry: entry.clone(), source: errno.into() };
        let handle = match self.open(path) {
            Err(Errno::XDEV) => return self.mounted(path, &entry).map(|()| None),
            other => other.map_err(unreadable)?,
        };
        let stat = fstat(&handle).map_err(unreadable)?;
        let meta = Meta { xattrs: xattrs(&handle).map_err(unreadable)?, ..meta(&stat) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Socket {
            self.skip(&entry, SkippedWhy::Socket);
            return Ok(None);
        }
        if kind == FileType::Directory {
            self.write(path, meta, Kind::Directory, io::empty(), &entry)?;
            if Some(identity(&stat)) == self.own {
                self.skip(&entry, SkippedWhy::OwnCache);
                return Ok(None);
            }
            return Ok(Some(names(&handle).map_err(unreadable)?));
        }
        if stat.st_nlink > 1
            && let Some(first) = self.links.insert(identity(&stat), path.to_vec())
        {
            self.links.insert(identity(&stat), first.clone());
            self.write(
                path,
                Meta { xattrs: std::collections::BTreeMap::new(), ..meta },
                Kind::Link { target: first },
                io::empty(),
                &entry,
            )?;
            return Ok(None);
        }
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        match kind {
            FileType::RegularFile => {
                let content = reopen(&handle, OFlags::RDONLY).map_err(unreadable)?;
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                self.write(path, meta, Kind::File { size, parts: None }, File::from(content), &entry)?;
            }
            FileType::Symlink => {
                let target = readlinkat(&handle, c"", Vec::new()).map_err(unreadable)?.into_bytes();
                self.write(path, meta, Kind::Symlink { target }, io::empty(), &entry)?;
            }
            FileType::CharacterDevice => self.write(path, meta, Kind::Char { major, minor }, io::empty(), &entry)?,
            FileType::BlockDevice => self.write(path, meta, Kind::Block { major, minor }, io::empty(), &entry)?,
            FileType::Fifo => self.write(path, meta, Kind::Fifo, io::empty(), &entry)?,
            FileType::Socket | FileType::Directory | FileType::Unknown => {}
        }
        Ok(None)
    }

    fn open(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), BENEATH) {
                // Somebody renames on this host: the kernel cannot vouch for the way, and would like to look again.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    /// The directory that something is mounted on, as nobody's: what lies beneath the mount cannot be seen.
    fn mounted(&mut self, path: &[u8], entry: &EntryName) -> Result<(), ImageError> {
        self.skip(entry, SkippedWhy::Mounted);
        self.write(path, Meta { mode: 0o755, ..Meta::default() }, Kind::Directory, io::empty(), entry)
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
        self.out.member(&Member { path, meta, kind }, content).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => ImportError::Changed { entry: entry.clone() }.into(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::from(FsError::on("write", Path::new("layer"))(source)),
            _ => ImportError::Read { entry: entry.clone(), source }.into(),
        })
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() },
        xattrs: std::collections::BTreeMap::new(),
    }
}

/// The same thing, opened for something: a handle has no content.
fn reopen(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(CWD, of(handle), flags | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

fn of(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

fn names(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::new(reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn xattrs(handle: &OwnedFd) -> Result<std::collections::BTreeMap<String, Vec<u8>>, Errno> {
    let path = of(handle);
    let mut list = vec![0; MAX_XATTR];
    let length = match listxattr(&path, &mut list[..]) {
        Ok(length) => length,
        // A file system without any.
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    let mut found = std::collections::BTreeMap::new();
    for name in list[..length].split(|b| *b == 0).filter_map(|name| std::str::from_utf8(name).ok()).filter(|name| !name.is_empty()) {
        if NOT_TAKEN.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        match getxattr(&path, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.insert(name.to_owned(), value);
            }
            // It went meanwhile, or is one of those that not everybody may read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use smolvm_oci::layer::Layer;

    use super::*;

    fn members(directory: &Path, cache: &Path) -> (Vec<(String, Kind)>, Vec<Skipped>, Vec<u8>) {
        let mut out = LayerWriter::new(Vec::new());
        let skipped = walk(directory, cache, &mut out).unwrap();
        let bytes = out.end().unwrap();
        let mut layer = Layer::new(&bytes[..]);
        let mut members = Vec::new();
        while let Some(member) = layer.next_member().unwrap() {
            members.push((String::from_utf8_lossy(&member.path).into_owned(), member.kind));
        }
        (members, skipped, bytes)
    }

    #[test]
    fn a_tree_is_walked_in_order_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        std::fs::create_dir_all(root.join("b/empty")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::fs::write(root.join("b.txt"), "12").unwrap();
        std::fs::hard_link(root.join("b.txt"), root.join("c")).unwrap();
        symlink(&outside, root.join("a")).unwrap();
        let _socket = UnixListener::bind(root.join("s")).unwrap();
        let (found, skipped, bytes) = members(&root, Path::new("/nonexistent"));
        let link = Kind::Symlink { target: outside.as_os_str().as_bytes().to_vec() };
        let want = [
            ("./", Kind::Directory),
            ("a", link),
            ("b/", Kind::Directory),
            ("b/empty/", Kind::Directory),
            ("b.txt", Kind::File { size: 2, parts: None }),
            ("c", Kind::Link { target: b"b.txt".to_vec() }),
        ];
        assert_eq!(found, want.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(skipped, [Skipped { entry: "s".to_owned(), why: SkippedWhy::Socket }]);
        assert_eq!(members(&root, Path::new("/nonexistent")).2, bytes, "the same tree is the same bytes");
        // The directory in which the layer grows is not part of it.
        let (found, skipped, _) = members(place.path(), &outside);
        assert!(!found.iter().any(|(name, _)| name.contains("secret")), "{found:?}");
        assert_eq!(skipped.iter().map(|one| one.why).collect::<Vec<_>>(), [SkippedWhy::OwnCache, SkippedWhy::Socket]);
    }

    #[test]
    fn names_that_mean_something_else_in_a_layer_are_refused_and_so_is_what_cannot_be_read() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(".wh.gone"), "").unwrap();
        let told = |place: &Path| walk(place, Path::new("/nonexistent"), &mut LayerWriter::new(Vec::new())).unwrap_err().to_string();
        assert!(told(place.path()).contains("\".wh.gone\""));
        std::fs::remove_file(place.path().join(".wh.gone")).unwrap();
        if rustix::process::geteuid().is_root() {
            return;
        }
        std::fs::write(place.path().join("locked"), "").unwrap();
        std::fs::set_permissions(place.path().join("locked"), PermissionsExt::from_mode(0o000)).unwrap();
        assert!(told(place.path()).contains("\"locked\" cannot be read"));
    }

    /// The kernel refuses what leads to another file system: `/proc` lies in `/`, and is one.
    #[test]
    fn what_is_mounted_is_not_looked_into() {
        let root = openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut out = LayerWriter::new(Vec::new());
        let mut walk = Walk { root, own: None, links: HashMap::new(), out: &mut out, skipped: Vec::new() };
        assert_eq!(walk.entry(b"proc").unwrap(), None);
        assert_eq!(walk.skipped, [Skipped { entry: "proc".to_owned(), why: SkippedWhy::Mounted }]);
    }
}
