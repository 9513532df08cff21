//! `image inspect`: what an image is, and how its authors mean it to be run.

use serde::Serialize;
use smolvm_host::image::Origin;
use smolvm_model::spec::ImageName;

use super::list::ImageView;
use crate::error::Error;
use crate::installation::Smolvm;

/// Everything that is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDetails {
    /// As in the list.
    pub image: ImageView,
    /// Memory that its sandboxes get unless told otherwise.
    pub default_memory_mib: u32,
    /// What it is as a registry has it.
    pub origin: Option<Origin>,
}

impl Smolvm {
    /// One image that is here.
    pub fn inspect_image(&self, name: &ImageName) -> Result<ImageDetails, Error> {
        let image = self.image(name)?;
        Ok(ImageDetails { default_memory_mib: image.default_memory_mib, origin: image.origin.clone(), image: self.view_of(image) })
    }
}
