//! Keeps images from being removed between the moment they are found and the moment it is on record who needs them.

use std::time::Duration;

use smolvm_host::image::{self, ImageError, ImagesInUse};
use smolvm_host::lock::LockError;
use smolvm_model::error_code::ErrorCode;

use super::failure::unusable;
use crate::error::Error;
use crate::installation::Smolvm;

/// A removal takes as long as the file system needs to free the files. Nobody in this crate's tests waits for one to end.
const WAIT: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(10) };

impl Smolvm {
    /// Whoever has this finds an image and writes down that it is needed; nobody removes one meanwhile.
    pub(crate) fn using_images(&self) -> Result<ImagesInUse, Error> {
        image::using(&self.paths().cache, WAIT).map_err(|e| match e {
            ImageError::Lock(LockError::Busy { .. }) => {
                Error::new(ErrorCode::Busy, "images are being removed by another command").hint("try again when it has ended")
            }
            other => unusable(other),
        })
    }

    /// Refuses to remove images that another installation may need: its ledger is not known here.
    pub(super) fn must_own_images(&self, what: &str) -> Result<(), Error> {
        if image::is_linked(&self.paths().cache) { Err(linked(what)) } else { Ok(()) }
    }
}

/// Why what lies behind a link is not removed.
pub(crate) fn linked(what: &str) -> Error {
    Error::new(ErrorCode::Refused, format!("{what} lies behind a link, and another installation may need it"))
        .hint("have the cache at its own path, by a bind mount if it shall lie elsewhere; or remove it by hand")
}

#[cfg(test)]
mod tests {
    use smolvm_host::image::{Digest, resolve_reference};
    use smolvm_host::lock;
    use smolvm_model::reference::Registry;
    use smolvm_model::spec::{ImageName, NetworkMode, Spec};

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::prune::{Mode, PruneRequest};
    use crate::testing::spec;

    const NAME: &str = "registry.example/a:1";

    /// An installation with one image of a registry.
    fn installation() -> (tempfile::TempDir, Smolvm, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        drop(vm.store().unwrap());
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let image = vm.paths().cache.join("images").join(digest.hex());
        std::fs::create_dir_all(&image).unwrap();
        std::fs::write(image.join("image.ext4"), "").unwrap();
        let manifest = format!(
            r#"{{"version":1,"name":"a","digest":"{digest}","size_bytes":0,"created_unix":0,"default_memory_mib":128,"env":{{}}}}"#
        );
        std::fs::write(image.join("manifest.json"), manifest).unwrap();
        image::name_image(&vm.paths().cache, &name().reference(&Registry::default()).unwrap(), &digest).unwrap();
        (dir, vm, digest)
    }

    fn name() -> ImageName {
        NAME.parse().unwrap()
    }

    fn is_named(vm: &Smolvm) -> bool {
        resolve_reference(&vm.paths().cache, &name().reference(&Registry::default()).unwrap()).unwrap().is_some()
    }

    fn prune(vm: &Smolvm) -> crate::prune::PruneReport {
        vm.prune(PruneRequest { idle: Duration::ZERO, keep: 0, mode: Mode::Remove }).unwrap()
    }

    #[test]
    fn what_somebody_uses_keeps_its_files_and_loses_its_name_alone() {
        let (_dir, vm, digest) = installation();
        let using = vm.using_images().unwrap();
        assert_eq!(vm.remove_images(&[name()]).unwrap().freed_bytes, 0);
        assert!(!is_named(&vm) && image::is_here(&vm.paths().cache, &digest));
        assert_eq!(prune(&vm).failed[0].code, "busy");
        assert_eq!(vm.setup_remove().unwrap_err().code, ErrorCode::Busy);
        assert!(image::is_here(&vm.paths().cache, &digest));
        drop(using);
        assert_eq!(prune(&vm).removed[0].part, "image");
        assert!(!image::is_here(&vm.paths().cache, &digest));
        vm.setup_remove().unwrap();
    }

    #[test]
    fn no_name_is_given_and_no_sandbox_recorded_while_images_are_removed() {
        let (_dir, vm, digest) = installation();
        let spec = Spec { image: name(), image_digest: digest.to_string(), ..spec(NetworkMode::None) };
        drop(vm.using_images().unwrap());
        let alone = lock::take(&vm.paths().cache.join("locks/images.lock"), Duration::ZERO).unwrap();
        let other: ImageName = "registry.example/b:1".parse().unwrap();
        assert_eq!(vm.tag_image(&name(), &other).unwrap_err().code, ErrorCode::Busy);
        assert_eq!(vm.create_from(None, None, &spec).unwrap_err().code, ErrorCode::Busy);
        drop(alone);
        // It was found, and went before anything said that it is needed.
        vm.remove_images(&[name()]).unwrap();
        let gone = vm.create_from(None, None, &spec).unwrap_err();
        assert_eq!(gone.code, ErrorCode::NotFound, "{}", gone.one_line());
        assert_eq!(vm.list().unwrap().sandboxes.len(), 0);
    }

    #[test]
    fn what_lies_behind_a_link_is_not_removed() {
        let (dir, vm, digest) = installation();
        let (cache, shared) = (vm.paths().cache.clone(), dir.path().join("shared"));
        std::fs::rename(&cache, &shared).unwrap();
        std::os::unix::fs::symlink(&shared, &cache).unwrap();
        assert_eq!(vm.remove_images(&[name()]).unwrap_err().code, ErrorCode::Refused);
        assert!(is_named(&vm));
        assert_eq!(vm.setup_remove().unwrap_err().code, ErrorCode::Refused);
        image::unname(&cache, &name().reference(&Registry::default()).unwrap()).unwrap();
        let report = prune(&vm);
        assert_eq!((report.removed.len(), report.failed[0].code), (0, "refused"));
        assert!(image::is_here(&cache, &digest));
    }
}
