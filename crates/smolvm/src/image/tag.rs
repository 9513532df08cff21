//! `image tag`: another name for an image that is here.

use smolvm_host::image::{self, BuiltIn};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use super::failure::unusable;
use super::list::ImageView;
use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    /// Points `name` at what `source` means now; what it pointed at before keeps its other names.
    pub fn tag_image(&self, source: &ImageName, name: &ImageName) -> Result<ImageView, Error> {
        let _using = self.using_images()?;
        let image = self.image(source)?;
        if BuiltIn::by_name(name.as_str()).is_some() {
            return Err(Error::new(ErrorCode::Refused, format!("\"{name}\" is the name of an image that smolvm makes itself"))
                .hint("choose another name, or give it a tag"));
        }
        let reference = self.named(name)?;
        if reference.digest().is_some() {
            return Err(Error::new(ErrorCode::UsageError, format!("\"{name}\" names a content, which nobody can choose"))
                .hint("choose a name with a tag, or without one"));
        }
        image::name_image(&self.paths().cache, &reference, &image.digest).map_err(unusable)?;
        Ok(ImageView { name: reference.to_string(), ..self.view_of(image) })
    }
}
