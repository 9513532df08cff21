//! Archives that lie, are too long, or meet damaged blobs; and what is written into one.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Digest;
use smolvm_oci::archive::{self, Member};
use smolvm_oci::document::media;
use smolvm_oci::layer::Layer;
use smolvm_oci::rootfs::Limits;

use super::load::load_within;
use super::pull::architecture;
use super::{ArchiveError, Loaded, load, save};
use crate::image::error::ImageError;
use crate::image::reference::{resolve_reference, unname};
use crate::image::{layout, store};

const NAME: &str = "registry.example/a:1";

/// An image of one layer without entries, as an archive has it.
struct Archive {
    name: String,
    manifest: Vec<u8>,
    said: u64,
    blobs: Vec<Vec<u8>>,
}

impl Archive {
    /// In the words of OCI, or of Docker.
    fn of(config_type: &str) -> Self {
        let layer = vec![0; 1024];
        let config = format!(
            r#"{{"os":"linux","architecture":"{}","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            architecture(),
            Digest::of(&layer)
        );
        let descriptor =
            |kind: &str, bytes: &[u8]| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#, Digest::of(bytes), bytes.len());
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            descriptor(config_type, config.as_bytes()),
            descriptor("layer", &layer)
        );
        let manifest = manifest.into_bytes();
        Self { name: NAME.to_owned(), said: manifest.len() as u64, blobs: vec![manifest.clone(), config.into_bytes(), layer], manifest }
    }

    fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn layer(&self) -> Digest {
        Digest::of(&self.blobs[2])
    }

    fn write(&self, directory: &Path) -> PathBuf {
        let mut bytes = Vec::new();
        archive::begin(&mut bytes, &archive::index(&self.name, None, media::MANIFEST, &self.digest(), self.said)).unwrap();
        for blob in &self.blobs {
            archive::blob(&mut bytes, &Digest::of(blob), blob.len() as u64, &blob[..]).unwrap();
        }
        archive::end(&mut bytes).unwrap();
        let path = directory.join("archive.tar");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A cache and a directory for files.
pub(super) struct Here {
    pub(super) dir: tempfile::TempDir,
}

impl Here {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn load(&self, archive: &Archive) -> Result<Loaded, ImageError> {
        load(&self.cache(), &archive.write(self.dir.path()), None, &mut |_| {})
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        layout::blobs(&self.cache()).join(digest.hex())
    }

    fn blobs(&self) -> usize {
        std::fs::read_dir(layout::blobs(&self.cache()))
            .map_or(0, |entries| entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_file()).count())
    }

    /// The image and all that leads to it, and none of its blobs.
    fn forget_image(&self) {
        store::remove_all(&self.cache()).unwrap();
    }
}

fn reference(text: &str) -> Reference {
    Reference::parse(text, &Registry::default()).unwrap()
}

#[test]
fn a_name_that_names_its_content_leads_to_that_content() {
    let (here, mut archive) = (Here::new(), Archive::of(media::CONFIG));
    archive.name = format!("docker.io/library/python@sha256:{}", "ab".repeat(32));
    let refused = here.load(&archive).unwrap_err();
    assert!(matches!(refused, ImageError::Archive(ArchiveError::OtherContent { .. })), "{refused}");
    assert_eq!(resolve_reference(&here.cache(), &reference(&archive.name)).unwrap(), None);
    assert_eq!(here.blobs(), 0, "nothing of it stays");
    // The same from whoever loads it.
    let (file, forged) = (archive.write(here.dir.path()), reference(&archive.name));
    assert!(load(&here.cache(), &file, Some(&forged), &mut |_| {}).is_err());
    archive.name = format!("docker.io/library/python@{}", archive.digest());
    here.load(&archive).unwrap();
}

#[test]
fn a_tag_that_is_moved_is_told() {
    let here = Here::new();
    let first = here.load(&Archive::of(media::CONFIG)).unwrap();
    assert_eq!(first.replaced, None);
    let other = here.load(&Archive::of(media::DOCKER_CONFIG)).unwrap();
    assert_eq!(other.replaced, Some(first.pulled.image.digest));
    assert_eq!(here.load(&Archive::of(media::DOCKER_CONFIG)).unwrap().replaced, None);
}

#[test]
fn an_index_that_lies_about_a_length_takes_no_blob_away() {
    let (here, mut archive) = (Here::new(), Archive::of(media::CONFIG));
    here.load(&archive).unwrap();
    let manifest = here.blob(&archive.digest());
    (archive.said, archive.name) = (1, "registry.example/lie:1".to_owned());
    for in_archive in [true, false] {
        archive.blobs.retain(|_| in_archive);
        here.load(&archive).unwrap_err();
        assert!(manifest.exists(), "somebody else's manifest is gone");
    }
}

#[test]
fn of_an_archive_only_what_its_image_needs_is_kept_and_no_more_is_unpacked_than_is_taken() {
    let (here, mut archive) = (Here::new(), Archive::of(media::CONFIG));
    archive.blobs.push(vec![7; 1 << 20]);
    here.load(&archive).unwrap();
    assert_eq!(here.blobs(), 3);
    assert_eq!(std::fs::read_dir(layout::temporary(&here.cache())).unwrap().count(), 0);
    let (there, file) = (Here::new(), archive.write(here.dir.path()));
    let limits = Limits { unpacked: 1 << 19, ..Limits::default() };
    let refused = load_within(&there.cache(), &file, None, limits, &mut |_| {}).unwrap_err();
    assert!(matches!(refused, ImageError::Archive(ArchiveError::TooLong { limit, .. }) if limit == 1 << 19), "{refused}");
    assert_eq!(there.blobs(), 0);
}

/// Two loads at once: what one is writing is nothing that the other gives a name.
#[test]
fn what_another_load_is_writing_is_not_published() {
    let (here, archive) = (Here::new(), Archive::of(media::CONFIG));
    let partial = layout::partial_blobs(&here.cache());
    std::fs::create_dir_all(&partial).unwrap();
    let mut others: Vec<File> = ["", ".load"]
        .map(|suffix| partial.join(format!("{}{suffix}", archive.layer().hex())))
        .map(|path| OpenOptions::new().write(true).create_new(true).open(path).unwrap())
        .into();
    here.load(&archive).unwrap();
    for other in &mut others {
        other.write_all(b"half of something else").unwrap();
    }
    assert_eq!(Digest::of(&std::fs::read(here.blob(&archive.layer())).unwrap()), archive.layer());
    // Nor is it in the way what a killed one left, whoever may write there.
    let (there, link) = (Here::new(), archive.layer());
    std::fs::create_dir_all(layout::partial_blobs(&there.cache())).unwrap();
    std::os::unix::fs::symlink("/nonexistent", layout::partial_blobs(&there.cache()).join(format!("{}.load", link.hex()))).unwrap();
    there.load(&archive).unwrap();
}

#[test]
fn what_a_killed_load_left_goes_with_the_next_one() {
    let (here, archive) = (Here::new(), Archive::of(media::CONFIG));
    let left = layout::temporary(&here.cache()).join("image-load-00000000000000ff.0123456789abcdef");
    std::fs::create_dir_all(&left).unwrap();
    let lock = layout::lock(&here.cache(), "image-load-00000000000000ff").unwrap();
    std::fs::write(&lock, "").unwrap();
    here.load(&archive).unwrap();
    assert!(!left.exists() && !lock.exists());
}

#[test]
fn what_cannot_be_swept_is_in_no_loads_way() {
    let (here, archive) = (Here::new(), Archive::of(media::CONFIG));
    std::fs::create_dir_all(layout::lock(&here.cache(), "blob-0a").unwrap()).unwrap();
    here.load(&archive).unwrap();
}

#[test]
fn a_damaged_blob_is_replaced_by_the_next_load() {
    let (here, archive) = (Here::new(), Archive::of(media::CONFIG));
    let loaded = here.load(&archive).unwrap();
    for blob in &archive.blobs {
        here.forget_image();
        let path = here.blob(&Digest::of(blob));
        std::fs::remove_file(&path).unwrap();
        let mut damaged = blob.clone();
        damaged[0] ^= 1;
        std::fs::write(&path, damaged).unwrap();
        let again = here.load(&archive).unwrap();
        assert_eq!(again.pulled.image.digest, loaded.pulled.image.digest);
        assert_eq!(std::fs::read(&path).unwrap(), *blob);
    }
}

#[test]
fn a_saved_image_is_called_what_its_manifest_is_and_follows_no_link() {
    for (config, kind) in [(media::CONFIG, media::MANIFEST), (media::DOCKER_CONFIG, media::DOCKER_MANIFEST)] {
        let (here, archive) = (Here::new(), Archive::of(config));
        let image = here.load(&archive).unwrap().pulled.image;
        let (out, bait) = (here.dir.path().join("out.tar"), here.dir.path().join("bait"));
        std::fs::write(&bait, "precious").unwrap();
        std::os::unix::fs::symlink(&bait, here.dir.path().join(format!("out.tar.{}.tmp", std::process::id()))).unwrap();
        // As if it had been pulled by the digest of an index.
        let pinned = reference(&format!("registry.example/a@sha256:{}", "cd".repeat(32)));
        save(&here.cache(), &image, &pinned, &out).unwrap();
        assert_eq!(std::fs::read_to_string(&bait).unwrap(), "precious");
        let mut saved = Layer::new(File::open(&out).unwrap());
        let Some(Member::Index(index)) = archive::next(&mut saved).unwrap() else { panic!("no index") };
        let index = String::from_utf8(index).unwrap();
        assert!(index.contains(kind), "{index}");
        // What was saved can be loaded under the name it says.
        unname(&here.cache(), &reference(NAME)).unwrap();
        let again = load(&here.cache(), &out, None, &mut |_| {}).unwrap().pulled.image;
        assert_eq!((again.name, again.digest), (format!("registry.example/a@{}", archive.digest()), image.digest.clone()));
        assert!(store::is_here(&here.cache(), &image.digest));
        // Whole, it has the rights of any file.
        let plain = here.dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        let rights = |path: &Path| std::fs::metadata(path).unwrap().permissions();
        assert_eq!(rights(&out), rights(&plain));
    }
}
