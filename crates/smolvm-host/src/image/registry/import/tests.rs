//! Imports that meet damaged blobs, and those that are too long.

use std::io::Write;

use rustix::mount::{MountFlags, mount};
use smolvm_model::reference::Registry;
use smolvm_oci::layer::{Kind, Member, Meta};
use testkit::netns::Netns;

use super::*;
use crate::image::registry::tests::Here;
use crate::image::{layout, store};

impl Here {
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, rootfs: Rootfs<'_>, bounds: Bounds) -> Result<Imported, ImageError> {
        let reference = Reference::parse("localhost/a:1", &Registry::default()).unwrap();
        import_within(&self.cache(), rootfs, &reference, ImportOptions::default(), bounds, &mut |_| {})
    }

    fn whole_blobs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(layout::blobs(&self.cache())).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    }
}

/// An archive with one file of so many bytes.
fn archive(length: u64) -> Vec<u8> {
    let mut layer = LayerWriter::new(Vec::new());
    let member = Member { path: b"a".to_vec(), meta: Meta::default(), kind: Kind::File { size: length, parts: None } };
    layer.member(&member, io::repeat(b'x').take(length)).unwrap();
    layer.end().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_damaged_blob_is_replaced_by_the_next_import() {
    let here = Here::new();
    let tar = here.file("a.tar", &archive(10));
    let first = here.import(Rootfs::At(&tar), Bounds::default()).unwrap().pulled;
    let blobs = here.whole_blobs();
    assert_eq!(blobs.len(), 3);
    for image_is_there in [true, false] {
        for blob in &blobs {
            if !image_is_there {
                store::remove_all(&here.cache()).unwrap();
            }
            let whole = std::fs::read(blob).unwrap();
            let mut damaged = whole.clone();
            damaged[0] ^= 1;
            std::fs::remove_file(blob).unwrap();
            std::fs::write(blob, damaged).unwrap();
            let again = here.import(Rootfs::At(&tar), Bounds::default()).unwrap().pulled;
            assert_eq!((&again.image.digest, again.made), (&first.image.digest, !image_is_there));
            assert!(std::fs::read(blob).unwrap() == whole, "it stays damaged");
        }
    }
}

#[test]
fn no_layer_is_longer_than_any_may_be_wherever_it_is_from() {
    let here = Here::new();
    let bytes = archive(100_000);
    let tar = here.file("a.tar", &bytes);
    let directory = here.dir.path().join("directory");
    std::fs::create_dir(&directory).unwrap();
    here.file("directory/a", &vec![b'x'; 100_000]);
    let sources = || [Rootfs::At(&tar), Rootfs::At(&directory), Rootfs::Stream(Box::new(&bytes[..]))];
    for rootfs in sources() {
        let bounds = Bounds { layer: 50_000, ..Bounds::default() };
        let refused = here.import(rootfs, bounds).unwrap_err();
        assert!(matches!(refused, ImageError::Import(ImportError::TooLong { limit: 50_000, .. })), "{refused}");
        assert_eq!((here.whole_blobs().len(), std::fs::read_dir(layout::temporary(&here.cache())).unwrap().count()), (0, 0));
    }
    for rootfs in sources() {
        here.import(rootfs, Bounds { layer: 110_000, ..Bounds::default() }).unwrap();
    }
}

#[test]
fn what_unpacks_to_more_than_is_taken_is_refused_when_that_is_known() {
    let here = Here::new();
    let bytes = archive(100_000);
    let refused = |bytes: &[u8]| {
        let bounds = Bounds { rootfs: Limits { unpacked: 50_000, ..Limits::default() }, ..Bounds::default() };
        here.import(Rootfs::Stream(Box::new(bytes)), bounds).unwrap_err()
    };
    for packed in [&bytes, &gzip(&bytes)] {
        let told = refused(packed);
        assert!(matches!(told, ImageError::Import(ImportError::Unpacked { limit: 50_000 })), "{told}");
    }
}

/// Neither says how long it is.
#[test]
fn what_comes_without_a_length_is_refused_before_it_fills_the_disk() {
    testkit::prerequisite::root();
    let here = Here::new();
    std::fs::create_dir(here.cache()).unwrap();
    Netns::new().unwrap().enter(|| {
        mount("none", here.cache(), "tmpfs", MountFlags::NOSUID, c"size=24m").unwrap();
        for rootfs in [Rootfs::At(Path::new("/dev/zero")), Rootfs::Stream(Box::new(io::repeat(0)))] {
            let refused = here.import(rootfs, Bounds::default()).unwrap_err();
            assert!(matches!(&refused, ImageError::NoSpace { needed_mib: 17, available_mib: 15..=16, .. }), "{refused}");
        }
        // What fits comes, however it is sent.
        here.import(Rootfs::Stream(Box::new(&archive(2 << 20)[..])), Bounds::default()).unwrap();
    });
}
