//! `image list`: every name there is.

use serde::Serialize;
use smolvm_host::image::{self, Image};

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
        let sizes = sizes(&images);
        let size = |image: &Image| sizes.get(&image.digest.to_string()).copied().unwrap_or_default();
        Ok(images.into_iter().map(|image| (size(&image), image)).map(|(sizes, image)| ImageView::of(image, sizes)).collect())
    }

    /// One image beside all others.
    pub(super) fn view_of(&self, image: Image) -> Result<ImageView, Error> {
        let mut images = self.named_images()?;
        images.push(image.clone());
        let sizes = sizes(&images).get(&image.digest.to_string()).copied().unwrap_or_default();
        Ok(ImageView::of(image, sizes))
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
