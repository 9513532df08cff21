//! The `debian` image. (being built)

use std::path::Path;

use super::build::Renew;
use super::error::ImageError;
use super::progress::Report;
use super::store::Image;

pub(super) const NAME: &str = "debian";

/// Why the `debian` image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// Not yet.
    #[error("the debian image is not built yet")]
    NotYet,
}

pub(super) fn build(_cache: &Path, _renew: Renew, _report: Report<'_>) -> Result<Image, ImageError> {
    Err(DebianError::NotYet.into())
}
