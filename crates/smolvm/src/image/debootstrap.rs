//! `image debootstrap`: a Debian of one's own, from the host's signed sources.

use smolvm_host::image::registry::ImportOptions;
use smolvm_host::image::{self, DebianRecipe, PackageName, SuiteName};
use smolvm_model::spec::ImageName;

use super::failure::not_bootstrapped;
use super::import::{reference_for, run_config};
use super::pull::{ImageProgress, PulledImage};
use crate::error::Error;
use crate::installation::Smolvm;

/// Which Debian.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebootstrapRequest {
    /// The release; the host's own without one.
    pub suite: Option<SuiteName>,
    /// What it is called; `localhost/debian:SUITE` without one.
    pub name: Option<ImageName>,
    /// Packages beside those that Debian requires.
    pub packages: Vec<PackageName>,
    /// How it is run, as instructions of a Dockerfile.
    pub changes: Vec<String>,
}

impl Smolvm {
    /// Makes an image of Debian packages.
    pub fn debootstrap_image(&self, request: &DebootstrapRequest, report: &mut dyn FnMut(ImageProgress)) -> Result<PulledImage, Error> {
        let run = run_config(&request.changes)?;
        let suite = match &request.suite {
            Some(suite) => suite.clone(),
            None => image::host_suite().map_err(not_bootstrapped)?,
        };
        let derived = || format!("localhost/debian:{suite}").parse().ok();
        let name = request.name.clone().or_else(derived).ok_or_else(|| {
            Error::new(smolvm_model::error_code::ErrorCode::UsageError, format!("no image can be called after \"{suite}\""))
                .hint("smolvm image debootstrap SUITE --name NAME")
        })?;
        let reference = reference_for(&name, &self.settings.registries.default)?;
        // Makes the directories of the home, with their rights.
        drop(self.store()?);
        let words = std::iter::once(suite.to_string()).chain(request.packages.iter().map(|package| format!("--package {package}")));
        let created_by = format!("smolvm image debootstrap {}", words.collect::<Vec<_>>().join(" "));
        let recipe = DebianRecipe { suite, packages: request.packages.clone() };
        let options = ImportOptions { run, created_by, comment: None };
        let made = image::debootstrap(&self.paths().cache, &reference, &recipe, options, report).map_err(not_bootstrapped)?;
        Ok(PulledImage { image: self.view_of(made.image), made: made.made })
    }
}
