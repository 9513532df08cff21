//! `image import`: the root of a file system becomes an image.

use std::io::Read;
use std::path::Path;

use smolvm_host::image::BuiltIn;
use smolvm_host::image::registry::{self, ImportOptions, Rootfs, RunConfig};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::reference::{Reference, Registry};
use smolvm_model::spec::ImageName;

use super::failure::not_imported;
use super::list::ImageView;
use super::pull::ImageProgress;
use crate::error::Error;
use crate::installation::Smolvm;

/// Where the file system comes from.
pub enum ImportSource<'a> {
    /// A directory or an archive.
    Path(&'a Path),
    /// An archive that somebody sends.
    Stream(Box<dyn Read + Send + 'a>),
}

impl std::fmt::Debug for ImportSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// What the image is to say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// What it is called; a name is made of the path without one.
    pub name: Option<ImageName>,
    /// How it is run, as instructions of a Dockerfile.
    pub changes: Vec<String>,
    /// A note for its history.
    pub message: Option<String>,
}

/// What `image import` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedImage {
    /// The image.
    pub image: ImageView,
    /// Whether it was made just now; else there was one of the same content.
    pub made: bool,
    /// What is not in it, and why.
    pub skipped: Vec<(String, &'static str)>,
}

impl Smolvm {
    /// Makes an image of a directory or an archive.
    pub fn import_image(
        &self,
        source: ImportSource<'_>,
        request: &ImportRequest,
        report: &mut dyn FnMut(ImageProgress),
    ) -> Result<ImportedImage, Error> {
        let (shown, derived) = match &source {
            ImportSource::Path(path) => (path.display().to_string(), name_of(path)),
            ImportSource::Stream(_) => ("standard input".to_owned(), None),
        };
        let name = request.name.clone().or(derived).ok_or_else(|| {
            Error::new(ErrorCode::UsageError, format!("{shown} does not say what the image shall be called"))
                .hint("smolvm image import PATH --name NAME")
        })?;
        let reference = reference_for(&name, &self.settings.registries.default)?;
        let run = run_config(&request.changes)?;
        // Makes the directories of the home, with their rights.
        drop(self.store()?);
        let options = ImportOptions { run, created_by: "smolvm image import".to_owned(), comment: request.message.clone() };
        let rootfs = match source {
            ImportSource::Path(path) => Rootfs::At(path),
            ImportSource::Stream(stream) => Rootfs::Stream(stream),
        };
        let imported = registry::import(&self.paths().cache, rootfs, &reference, options, report).map_err(|e| not_imported(&shown, e))?;
        Ok(ImportedImage {
            image: self.view_of(imported.pulled.image),
            made: imported.pulled.made,
            skipped: imported.skipped.into_iter().map(|one| (one.entry, one.why.as_str())).collect(),
        })
    }
}

/// The name under which something that is made here can be kept.
pub(super) fn reference_for(name: &ImageName, default: &Registry) -> Result<Reference, Error> {
    if BuiltIn::by_name(name.as_str()).is_some() {
        return Err(Error::new(ErrorCode::Refused, format!("\"{name}\" is the name of an image that smolvm makes itself"))
            .hint("choose another name, or give it a tag"));
    }
    let no_name = || Error::new(ErrorCode::UsageError, format!("\"{name}\" is no name that a registry could have"));
    name.reference(default).filter(|reference| reference.digest().is_none()).ok_or_else(no_name)
}

/// How an image is run after these instructions.
pub(super) fn run_config(changes: &[String]) -> Result<RunConfig, Error> {
    let mut run = RunConfig::default();
    for change in changes {
        run.change(change).map_err(|e| {
            Error::new(ErrorCode::UsageError, format!("the change \"{}\" cannot be made", change.escape_debug()))
                .hint("write it as in a Dockerfile: --change 'CMD [\"/bin/sh\"]'")
                .because(e)
        })?;
    }
    Ok(run)
}

/// A name of this host for what has no other: `rootfs.tar.gz` becomes `localhost/rootfs:latest`.
fn name_of(path: &Path) -> Option<ImageName> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let stem = [".tar.gz", ".tgz", ".tar.zst", ".tar"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
    format!("localhost/{stem}:latest").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_gives_a_name_if_it_is_one() {
        let named = |path: &str| name_of(Path::new(path)).map(|name| name.to_string());
        for path in ["/tmp/My-App.tar", "my-app.tar.gz", "my-app", "../my-app.tar.zst", "x/my-app/"] {
            assert_eq!(named(path).as_deref(), Some("localhost/my-app:latest"), "{path}");
        }
        for path in ["/", "..", "a b", "-x", "\u{e4}.tar"] {
            assert_eq!(named(path), None, "{path}");
        }
    }
}
