//! Names of registries, and which image each stands for here.

use std::path::Path;

use smolvm_model::effect::Effect;
use smolvm_model::reference::Reference;

use super::digest::Digest;
use super::error::ImageError;
use super::store::{self, Image};
use super::{layout, listing};
use crate::effect::perform;
use crate::fsx::{FsError, sync_dir};

/// A name and what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedImage {
    /// The name of a registry.
    pub reference: Reference,
    /// The image.
    pub image: Image,
}

/// The image a reference stands for here, if it stands for one; no registry is asked.
pub fn resolve_reference(cache: &Path, reference: &Reference) -> Result<Option<Image>, ImageError> {
    let digest = store::pointer_at(&layout::references(cache).join(reference.file_name()))?;
    let image = digest.map(|digest| store::open(cache, &digest)).transpose()?.flatten();
    // It has the name it was pulled under; the pointer decides.
    Ok(image.map(|image| Image { name: reference.to_string(), ..image }))
}

/// All references that stand for something, by name.
pub fn references(cache: &Path) -> Result<Vec<NamedImage>, ImageError> {
    let mut found = Vec::new();
    for name in listing::names(&layout::references(cache), |name| Reference::of_file_name(name).is_some())? {
        let Some(reference) = Reference::of_file_name(&name) else { continue };
        if let Some(image) = resolve_reference(cache, &reference)? {
            found.push(NamedImage { reference, image });
        }
    }
    Ok(found)
}

/// Points a reference at an image that is here.
pub fn name_image(cache: &Path, reference: &Reference, digest: &Digest) -> Result<(), ImageError> {
    Ok(store::point(&layout::references(cache), &reference.file_name(), &digest.to_string())?)
}

/// Takes a reference away; the image stays. Says whether there was one.
pub fn unname(cache: &Path, reference: &Reference) -> Result<bool, ImageError> {
    let directory = layout::references(cache);
    let path = directory.join(reference.file_name());
    let removed = perform(Effect::DropName, |_| match std::fs::remove_file(&path) {
        Ok(()) => sync_dir(&directory).map(|()| true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(FsError::on("remove", &path)(e)),
    })?;
    Ok(removed)
}

/// What was made of a manifest, if that is here and whole.
pub(super) fn of_manifest(cache: &Path, manifest: &smolvm_oci::Digest) -> Result<Option<Image>, ImageError> {
    let digest = store::pointer_at(&layout::manifests(cache).join(manifest.hex()))?;
    Ok(digest.map(|digest| store::open(cache, &digest)).transpose()?.flatten())
}

/// Writes down what was made of a manifest.
pub(super) fn note_manifest(cache: &Path, manifest: &smolvm_oci::Digest, digest: &Digest) -> Result<(), ImageError> {
    Ok(store::point(&layout::manifests(cache), manifest.hex(), &digest.to_string())?)
}
