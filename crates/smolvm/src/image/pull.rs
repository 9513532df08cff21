//! `image pull`, and the pull that a `run` begins with.

use smolvm_host::image::registry::{PullOptions, Pulled, pull};
use smolvm_host::image::{BuiltIn, ImageError, Progress};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use super::failure::not_pulled;
use super::list::ImageView;
use crate::error::Error;
use crate::installation::{Settings, Smolvm};

/// What a pull is at.
pub type ImageProgress = Progress;

/// What `image pull` did.
#[derive(Debug, Clone, PartialEq)]
pub struct PulledImage {
    /// The image.
    pub image: ImageView,
    /// Whether it was made just now.
    pub made: bool,
}

impl Smolvm {
    /// Pulls what a name means now.
    pub fn pull_image(&self, name: &ImageName, report: &mut dyn FnMut(ImageProgress)) -> Result<PulledImage, Error> {
        let pulled = self.pulled(name, report)?;
        Ok(PulledImage { image: self.view_of(pulled.image), made: pulled.made })
    }

    fn pulled(&self, name: &ImageName, report: &mut dyn FnMut(ImageProgress)) -> Result<Pulled, Error> {
        if BuiltIn::by_name(name.as_str()).is_some() {
            return Err(Error::new(ErrorCode::UsageError, format!("\"{name}\" is made on this host, and pulled from nowhere"))
                .hint(format!("smolvm setup --image {name}; or with a tag, for the registry's: {name}:latest")));
        }
        let reference = self.named(name)?;
        // Makes the directories of the home, with their rights.
        drop(self.store()?);
        let Settings { logins, registries, access, .. } = self.settings.clone();
        let options = PullOptions { logins, registries, access };
        let fail = |e: ImageError| not_pulled(&reference, e);
        pull(&self.paths().cache, &reference, &options, report).map_err(fail)
    }

    /// Pulls an image that is not here; one that is here stays as it is, whatever its name means by now.
    pub fn pull_if_missing(&self, name: &ImageName, report: &mut dyn FnMut(ImageProgress)) -> Result<(), Error> {
        if BuiltIn::by_name(name.as_str()).is_some() || self.image_if_any(name)?.is_some() {
            return Ok(());
        }
        // Nobody is shown it, so no other image is looked at.
        self.pulled(name, report).map(drop)
    }
}
