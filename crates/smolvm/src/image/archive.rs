//! `image save` and `image load`: images in files, for hosts that reach no registry.

use std::path::Path;

use smolvm_host::image::registry::{load, save};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::reference::Reference;
use smolvm_model::spec::ImageName;

use super::failure::not_carried;
use super::list::ImageView;
use super::pull::ImageProgress;
use crate::error::Error;
use crate::installation::Smolvm;

/// What `image load` did.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImage {
    /// The image.
    pub image: ImageView,
    /// Whether it was made just now.
    pub made: bool,
    /// The digest of the image that the name led to before, if that was another.
    pub replaced: Option<String>,
}

impl Smolvm {
    /// Makes the image of an archive, under this name or the one that the archive says.
    pub fn load_image(&self, file: &Path, name: Option<&ImageName>, report: &mut dyn FnMut(ImageProgress)) -> Result<LoadedImage, Error> {
        let reference = name.map(|name| self.named(name)).transpose()?;
        // Makes the directories of the home, with their rights.
        drop(self.store()?);
        let loaded = load(&self.paths().cache, file, reference.as_ref(), report).map_err(|e| not_carried(file, e))?;
        let replaced = loaded.replaced.map(|digest| digest.to_string());
        Ok(LoadedImage { image: self.view_of(loaded.pulled.image), made: loaded.pulled.made, replaced })
    }

    /// Writes an image into an archive; gives its length.
    pub fn save_image(&self, name: &ImageName, file: &Path) -> Result<u64, Error> {
        let image = self.image(name)?;
        save(&self.paths().cache, &image, &self.named(name)?, file).map_err(|e| not_carried(file, e))
    }

    /// What a registry calls it, or could.
    pub(super) fn named(&self, name: &ImageName) -> Result<Reference, Error> {
        let no_name = || Error::new(ErrorCode::UsageError, format!("\"{name}\" is no name that a registry could have"));
        self.reference(name).ok_or_else(no_name)
    }
}
