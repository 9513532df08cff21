//! What becomes of each kind of entry; what is refused, and in which words.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::SystemTime;

use rustix::fs::{XattrFlags, setxattr};
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use smolvm_oci::layer::{Layer, Part};
use testkit::hung::HungMount;
use testkit::netns::Netns;

use super::*;

/// More than any layer here has.
const ROOM: u64 = 4 << 20;

/// A directory that becomes a layer, and the cache beside it.
struct Here {
    place: tempfile::TempDir,
}

impl Here {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        for name in ["root", "cache"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        Self { place }
    }

    fn root(&self) -> std::path::PathBuf {
        self.place.path().join("root")
    }

    fn file(&self, name: &str, content: &[u8]) -> File {
        let path = self.root().join(name);
        std::fs::write(&path, content).unwrap();
        File::options().write(true).open(path).unwrap()
    }

    fn write(&self, directory: &Path, out: impl Write, limit: u64) -> Result<Vec<Skipped>, ImageError> {
        let cache = self.place.path().join("cache");
        let mut out = LayerWriter::new(Capped::new(out, limit));
        walk(directory, Target { cache: &cache, layer: Path::new("/the/layer") }, &mut out)
    }

    fn members(&self, directory: &Path) -> (Vec<(String, Kind)>, Vec<Skipped>, Vec<u8>) {
        let mut bytes = Vec::new();
        let skipped = self.write(directory, &mut bytes, ROOM).unwrap();
        let mut layer = Layer::new(&bytes[..]);
        let mut members = Vec::new();
        while let Some(member) = layer.next_member().unwrap() {
            members.push((String::from_utf8_lossy(&member.path).into_owned(), member.kind));
        }
        (members, skipped, bytes)
    }

    /// With a cache on a disk of 8 MiB: why the layer is not written, and how much of it was.
    fn refused_for_want_of_room(&self) -> (ImageError, usize) {
        testkit::prerequisite::root();
        let mut bytes = Vec::new();
        let refused = Netns::new().unwrap().enter(|| {
            mount("none", self.place.path().join("cache"), "tmpfs", MountFlags::NOSUID, c"size=8m").unwrap();
            self.write(&self.root(), &mut bytes, ROOM).unwrap_err()
        });
        (refused, bytes.len())
    }

    fn told(&self) -> String {
        self.write(&self.root(), io::sink(), ROOM).unwrap_err().to_string()
    }
}

#[test]
fn a_tree_is_walked_in_order_and_no_link_is_followed() {
    let here = Here::new();
    let (root, outside) = (here.root(), here.place.path().join("outside"));
    std::fs::create_dir_all(root.join("b/empty")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "x").unwrap();
    std::fs::write(root.join("b.txt"), "12").unwrap();
    std::fs::hard_link(root.join("b.txt"), root.join("c")).unwrap();
    symlink(&outside, root.join("a")).unwrap();
    let _socket = UnixListener::bind(root.join("s")).unwrap();
    let (found, skipped, bytes) = here.members(&root);
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
    assert_eq!(here.members(&root).2, bytes, "the same tree is the same bytes");
    // The directory in which the layer grows is not part of it.
    std::fs::write(here.place.path().join("cache/grows"), "x").unwrap();
    let (found, skipped, _) = here.members(here.place.path());
    assert!(!found.iter().any(|(name, _)| name.contains("grows")), "{found:?}");
    assert_eq!(skipped.iter().map(|one| one.why).collect::<Vec<_>>(), [SkippedWhy::OwnCache, SkippedWhy::Socket]);
}

#[test]
fn names_that_mean_something_else_in_a_layer_are_refused() {
    let here = Here::new();
    here.file(".wh.gone", b"");
    assert!(here.told().contains("\".wh.gone\""));
}

#[test]
fn what_cannot_be_read_is_told_by_name() {
    let here = Here::new();
    here.file("locked", b"").set_permissions(PermissionsExt::from_mode(0o000)).unwrap();
    // Root reads everything by these two; they are the thread's own, and it ends with the test.
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, sets).unwrap();
    assert!(here.told().contains("\"locked\" cannot be read"), "{}", here.told());
}

/// Full, or broken: of that no entry is to blame.
#[test]
fn a_layer_that_cannot_be_written_is_no_entry_that_cannot_be_read() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(Errno::IO.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let here = Here::new();
    let told = here.write(&here.root(), Broken, ROOM).unwrap_err();
    assert!(matches!(&told, ImageError::Fs(error) if error.path == Path::new("/the/layer")), "{told}");
}

#[test]
fn attributes_that_would_be_read_as_others_are_refused_by_name() {
    for (name, shown) in [(&b"user.a=b"[..], "\"user.a=b\""), (b"user.\xff", "\"user.\\xff\"")] {
        let here = Here::new();
        here.file("tagged", b"");
        setxattr(here.root().join("tagged"), name, b"x", XattrFlags::empty()).unwrap();
        let told = here.told();
        assert!(told.contains("\"tagged\"") && told.contains(shown), "{told}");
    }
}

#[test]
fn attributes_that_belong_to_this_host_stay_behind() {
    let here = Here::new();
    here.file("tagged", b"");
    for name in ["user.kept", "user.overlay.opaque"] {
        setxattr(here.root().join("tagged"), name, b"x", XattrFlags::empty()).unwrap();
    }
    let (_, _, bytes) = here.members(&here.root());
    let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    assert_eq!((has(b"user.kept"), has(b"user.overlay")), (true, false));
}

#[test]
fn a_file_with_holes_takes_no_more_room_than_its_content() {
    let (size, far) = (4 << 40, 3 << 40);
    let here = Here::new();
    let file = here.file("sparse", b"head");
    file.write_all_at(b"far", far).unwrap();
    file.set_len(size).unwrap();
    here.file("nothing", b"").set_len(size).unwrap();
    let (found, _, bytes) = here.members(&here.root());
    let parts = vec![Part { offset: 0, length: 4096 }, Part { offset: far, length: 4096 }];
    let want = [
        ("./", Kind::Directory),
        ("nothing", Kind::File { size, parts: Some(vec![]) }),
        ("sparse", Kind::File { size, parts: Some(parts) }),
    ];
    assert_eq!(found, want.map(|(name, kind)| (name.to_owned(), kind)));
    assert!(bytes.len() < 64 << 10, "{}", bytes.len());
}

/// File systems know of holes, or do not: the same content is the same layer.
#[test]
fn holes_and_written_zeros_are_the_same() {
    let (dense, sparse) = (Here::new(), Here::new());
    let mut content = vec![0; 700_001];
    content[..70_000].fill(1);
    content[300_000..300_010].fill(2);
    // Too short a run of zeros to be worth a hole.
    content[310_000] = 3;
    content[700_000] = 4;
    let there = sparse.file("f", b"");
    for (at, byte) in content.iter().enumerate().filter(|(_, byte)| **byte != 0) {
        there.write_all_at(&[*byte], at as u64).unwrap();
    }
    let time = SystemTime::UNIX_EPOCH;
    for file in [dense.file("f", &content), there] {
        file.set_modified(time).unwrap();
    }
    for here in [&dense, &sparse] {
        File::open(here.root()).unwrap().set_modified(time).unwrap();
    }
    let (found, _, bytes) = dense.members(&dense.root());
    let Kind::File { size: 700_001, parts: Some(parts) } = &found[1].1 else { panic!("{found:?}") };
    assert_eq!(parts.iter().map(|part| part.offset / 4096).collect::<Vec<_>>(), [0, 73, 170]);
    assert_eq!(sparse.members(&sparse.root()).2, bytes);
}

/// Writes into a file when its header comes by: between the look for its holes and the reading.
struct Meddler {
    file: File,
    /// What time is put back afterwards, as if nothing had been.
    modified: Option<SystemTime>,
}

impl Write for Meddler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.starts_with(b"torn\0") {
            let before = self.file.metadata()?;
            // Clocks of file systems tick a few times in a hundredth of a second: until this one has.
            while self.file.metadata()?.ctime_nsec() == before.ctime_nsec() {
                self.file.write_all_at(b"new", 500)?;
                self.modified.map_or(Ok(()), |time| self.file.set_modified(time))?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_is_written_to_meanwhile_is_refused_by_name() {
    let here = Here::new();
    // One that is read once, and one that is read twice.
    for size in [1_000, 200_000] {
        for modified in [None, Some(SystemTime::UNIX_EPOCH)] {
            let file = here.file("torn", &vec![1; size]);
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            let refused = here.write(&here.root(), Meddler { file, modified }, ROOM).unwrap_err();
            assert!(matches!(&refused, ImageError::Import(ImportError::Changed { .. })), "{size} {modified:?}: {refused}");
            assert!(refused.to_string().contains("\"torn\""), "{refused}");
        }
    }
}

#[test]
fn more_than_a_layer_may_have_is_refused_before_it_is_written() {
    let here = Here::new();
    here.file("small", b"x");
    // More than the writer takes at once.
    here.file("too-long", &vec![1; 1_000_000]);
    let mut bytes = Vec::new();
    let refused = here.write(&here.root(), &mut bytes, 900_000).unwrap_err();
    assert!(matches!(&refused, ImageError::Import(ImportError::TooLong { limit: 900_000, .. })), "{refused}");
    assert!(refused.to_string().contains("\"too-long\""), "{refused}");
    assert!(bytes.len() < 10_000, "{} bytes were written", bytes.len());
}

#[test]
fn what_the_disk_has_no_room_for_is_refused_before_it_is_written() {
    let here = Here::new();
    here.file("large", &vec![1; 2 << 20]);
    let (refused, written) = here.refused_for_want_of_room();
    assert!(matches!(&refused, ImageError::NoSpace { needed_mib: 18, .. }), "{refused}");
    assert!(written < 10_000, "{written} bytes were written");
}

/// Each of them is short, and nobody would ask for it alone.
#[test]
fn many_small_files_are_refused_before_they_fill_the_disk() {
    let here = Here::new();
    for n in 0..24 {
        here.file(&n.to_string(), &vec![1; 100_000]);
    }
    let (refused, written) = here.refused_for_want_of_room();
    assert!(matches!(&refused, ImageError::NoSpace { needed_mib: 17, .. }), "{refused}");
    assert!(written < 1_200_000, "{written} bytes were written");
}

/// The kernel refuses what leads to another file system: `/proc` lies in `/`, and is one.
#[test]
fn what_is_mounted_is_not_looked_into() {
    let root = openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut out = LayerWriter::new(Capped::new(Vec::new(), ROOM));
    let target = Target { cache: Path::new("/nonexistent"), layer: Path::new("/the/layer") };
    let mut walk =
        Walk { root, own: None, links: HashMap::new(), target, space: Room::of(target.cache), out: &mut out, skipped: Vec::new() };
    for kind in [FileType::Directory, FileType::Unknown] {
        let before = walk.out.stream().left();
        assert_eq!(walk.entry(b"proc", kind).unwrap(), None);
        assert_eq!(before - walk.out.stream().left(), 512, "a directory is one header");
        assert_eq!(walk.skipped.pop(), Some(Skipped { entry: "proc".to_owned(), why: SkippedWhy::Mounted }));
    }
}

/// A file that something is mounted on is left out, for what it is cannot be seen; a directory stays one. Nobody asks what is mounted.
#[test]
fn a_file_that_something_is_mounted_on_is_no_directory() {
    testkit::prerequisite::root();
    let here = Here::new();
    here.file("hosts", b"x");
    std::fs::create_dir(here.root().join("hung")).unwrap();
    std::fs::write(here.place.path().join("other"), "y").unwrap();
    Netns::new().unwrap().enter(|| {
        mount_bind(here.place.path().join("other"), here.root().join("hosts")).unwrap();
        let hung = HungMount::new(&here.root().join("hung"));
        let (found, skipped, _) = here.members(&here.root());
        assert_eq!(found, ["./", "hung/"].map(|name| (name.to_owned(), Kind::Directory)));
        assert_eq!(skipped, ["hosts", "hung"].map(|name| Skipped { entry: name.to_owned(), why: SkippedWhy::Mounted }));
        drop(hung);
    });
}
