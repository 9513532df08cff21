//! `image list`: every name there is.

use std::collections::BTreeSet;

use serde::Serialize;
use smolvm_host::image::{self, Digest, Image};

use super::failure::unusable;
use super::sizes::{Sizes, sizes};
use crate::error::Error;
use crate::installation::Smolvm;

/// One image under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageView {
    /// The name.
    pub name: String,
    /// The digest of its file system.
    pub digest: String,
    /// The digest of its manifest, if it is one of a registry.
    pub manifest: Option<String>,
    /// Length of the file system.
    pub size_bytes: u64,
    /// What it takes of the disk that no other image has: its file system, and layers.
    pub own_bytes: u64,
    /// Layers that other images have as well; each lies here once.
    pub shared_bytes: u64,
    /// When it was made here, RFC 3339.
    pub created: String,
}

impl ImageView {
    fn of(image: Image, sizes: Sizes) -> Self {
        Self {
            own_bytes: sizes.own,
            shared_bytes: sizes.shared,
            name: image.name,
            digest: image.digest.to_string(),
            manifest: image.origin.map(|origin| origin.manifest.to_string()),
            size_bytes: image.size_bytes,
            created: crate::time::rfc3339(i64::try_from(image.created_unix).unwrap_or(0).saturating_mul(1000)),
        }
    }
}

impl Smolvm {
    /// Every image by each of its names, those of this host's own first.
    pub fn images(&self) -> Result<Vec<ImageView>, Error> {
        let images = self.named_images()?;
        let sizes = sizes(&[&images[..], &self.keepers()].concat());
        let size = |image: &Image| sizes.get(&image.digest.to_string()).copied().unwrap_or_default();
        Ok(images.into_iter().map(|image| (size(&image), image)).map(|(sizes, image)| ImageView::of(image, sizes)).collect())
    }

    /// One image beside all others.
    pub(super) fn view_of(&self, image: Image) -> ImageView {
        let mut images = self.keepers();
        images.push(image.clone());
        let sizes = sizes(&images).get(&image.digest.to_string()).copied().unwrap_or_default();
        ImageView::of(image, sizes)
    }

    /// The images whose layers stay whatever else goes: those that registries have a name for, and those that sandboxes and snapshots need.
    /// As far as that can be found out: what was done with an image did not fail because another cannot be read.
    fn keepers(&self) -> Vec<Image> {
        let cache = &self.paths().cache;
        let named = image::pointers(cache).unwrap_or_default();
        let named = named.iter().filter_map(|pointer| pointer.leads.digest().cloned());
        let needed = self.needed_images().unwrap_or_default();
        let needed = needed.iter().filter_map(|hex| hex.parse().ok());
        let digests: BTreeSet<Digest> = named.chain(needed).collect();
        digests.iter().filter_map(|digest| image::resolve_digest(cache, digest).ok()).collect()
    }

    fn named_images(&self) -> Result<Vec<Image>, Error> {
        let cache = &self.paths().cache;
        let own = image::list(cache).map_err(unusable)?;
        let pulled = image::references(cache).map_err(unusable)?;
        Ok(own.into_iter().chain(pulled.into_iter().map(|named| named.image)).collect())
    }

    /// Names of registries whose image is damaged or not there: they can be pulled again, or taken away.
    pub fn broken_images(&self) -> Result<Vec<String>, Error> {
        let broken = image::broken_references(&self.paths().cache).map_err(unusable)?;
        Ok(broken.into_iter().map(|reference| reference.to_string()).collect())
    }
}

#[cfg(test)]
mod tests {
    use smolvm_model::spec::{NetworkMode, Spec};

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing::{digest, put_image, spec};

    fn installation() -> (tempfile::TempDir, Smolvm) {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        drop(vm.store().unwrap());
        (dir, vm)
    }

    #[test]
    fn what_was_done_is_no_failure_because_another_image_cannot_be_read() {
        let (_dir, vm) = installation();
        put_image(&vm, 'a', "1", Some("r.example/a:1"));
        put_image(&vm, 'b', "1", Some("r.example/b:1"));
        let manifest = vm.paths().cache.join("images").join("b".repeat(64)).join("manifest.json");
        std::fs::write(manifest, r#"{"version":9}"#).unwrap();
        let view = vm.tag_image(&"r.example/a:1".parse().unwrap(), &"r.example/c:1".parse().unwrap()).unwrap();
        assert_eq!((view.name.as_str(), view.own_bytes, view.shared_bytes), ("r.example/c:1", 11, 0));
        assert!(vm.images().is_err(), "who asks for all of them is told");
    }

    #[test]
    fn layers_that_a_sandbox_keeps_come_not_free() {
        let (_dir, vm) = installation();
        put_image(&vm, 'a', "12", Some("r.example/a:1"));
        let other = put_image(&vm, 'b', "2", Some("r.example/b:1"));
        let needs = Spec { image: "r.example/b:1".parse().unwrap(), image_digest: other.to_string(), ..spec(NetworkMode::None) };
        vm.create_from(None, None, &needs).unwrap();
        // Its name leads elsewhere now.
        put_image(&vm, 'c', "3", Some("r.example/b:1"));
        let views = vm.images().unwrap();
        let of = |image: char| views.iter().find(|view| view.digest == digest(image)).map(|view| (view.own_bytes, view.shared_bytes));
        assert_eq!((views.len(), of('a'), of('c')), (2, Some((11, 10)), Some((11, 0))));
        let view = vm.inspect_image(&"r.example/a:1".parse().unwrap()).unwrap().image;
        assert_eq!((view.own_bytes, view.shared_bytes), (11, 10));
    }
}
