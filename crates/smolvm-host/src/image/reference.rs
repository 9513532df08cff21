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

/// A name and where it points, whether a whole image is there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The name of a registry.
    pub reference: Reference,
    /// What its file says.
    pub leads: Leads,
}

/// Where a pointer leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leads {
    /// To the image of this digest.
    To(Digest),
    /// Nowhere: it is gone by now.
    Nowhere,
    /// It cannot be read, or says no digest: it may have been any image's.
    Unknown,
}

impl Leads {
    /// Where the pointer in a file leads.
    pub(super) fn of(path: &Path) -> Self {
        match store::line_at(path) {
            Ok(Some(line)) => line.parse().map_or(Self::Unknown, Self::To),
            Ok(None) => Self::Nowhere,
            Err(_) => Self::Unknown,
        }
    }

    /// The digest, if it is known.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::To(digest) => Some(digest),
            Self::Nowhere | Self::Unknown => None,
        }
    }
}

impl Pointer {
    /// The image, if it is here and whole.
    fn image(&self, cache: &Path) -> Result<Option<Image>, ImageError> {
        let Some(digest) = self.leads.digest() else { return Ok(None) };
        // It has the name it was pulled under; the pointer decides.
        let image = store::unless_broken(store::open(cache, digest))?;
        Ok(image.map(|image| Image { name: self.reference.to_string(), ..image }))
    }
}

/// The image a reference stands for here, if it stands for one; no registry is asked.
pub fn resolve_reference(cache: &Path, reference: &Reference) -> Result<Option<Image>, ImageError> {
    let digest = store::pointer_at(&layout::references(cache).join(reference.file_name()))?;
    let image = digest.map(|digest| store::open(cache, &digest)).transpose()?.flatten();
    // It has the name it was pulled under; the pointer decides.
    Ok(image.map(|image| Image { name: reference.to_string(), ..image }))
}

/// All references that stand for an image that is whole, by name.
pub fn references(cache: &Path) -> Result<Vec<NamedImage>, ImageError> {
    let mut found = Vec::new();
    for pointer in pointers(cache)? {
        if let Some(image) = pointer.image(cache)? {
            found.push(NamedImage { reference: pointer.reference, image });
        }
    }
    Ok(found)
}

/// All references that stand for an image that is damaged or not there, by name.
pub fn broken_references(cache: &Path) -> Result<Vec<Reference>, ImageError> {
    let mut found = Vec::new();
    for pointer in pointers(cache)? {
        if pointer.image(cache)?.is_none() {
            found.push(pointer.reference);
        }
    }
    Ok(found)
}

/// All references, by name, and where they point.
pub fn pointers(cache: &Path) -> Result<Vec<Pointer>, ImageError> {
    let directory = layout::references(cache);
    let names = listing::names(&directory, |name| Reference::of_file_name(name).is_some())?;
    let pointer = |name: String| Some(Pointer { reference: Reference::of_file_name(&name)?, leads: Leads::of(&directory.join(&name)) });
    Ok(names.into_iter().filter_map(pointer).collect())
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

/// What was made of a manifest, if that is here and whole; what is not is made again.
pub(super) fn of_manifest(cache: &Path, manifest: &smolvm_oci::Digest) -> Result<Option<Image>, ImageError> {
    let found = store::pointer_at(&layout::manifests(cache).join(manifest.hex()));
    store::unless_broken(found.and_then(|digest| digest.map(|digest| store::open(cache, &digest)).transpose()).map(Option::flatten))
}

/// Writes down what was made of a manifest.
pub(super) fn note_manifest(cache: &Path, manifest: &smolvm_oci::Digest, digest: &Digest) -> Result<(), ImageError> {
    Ok(store::point(&layout::manifests(cache), manifest.hex(), &digest.to_string())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn put(cache: &Path, name: &str) -> (Reference, Digest, smolvm_oci::Digest) {
        let reference = Reference::of_file_name(&format!("docker.io+library+{name}:1")).unwrap();
        let out = cache.join(name);
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("image.ext4"), name).unwrap();
        let config = store::Config { default_memory_mib: 128, env: BTreeMap::new(), origin: None };
        let digest = store::publish_unnamed(cache, &out, name, config).unwrap();
        let manifest = smolvm_oci::Digest::of(name.as_bytes());
        note_manifest(cache, &manifest, &digest).unwrap();
        name_image(cache, &reference, &digest).unwrap();
        (reference, digest, manifest)
    }

    fn replace(path: &Path, content: &[u8]) {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn a_broken_image_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path();
        let [whole, cut, gone, odd, lost] = ["whole", "cut", "gone", "odd", "lost"].map(|name| put(cache, name));
        let at = |digest: &Digest, file: &str| layout::images(cache).join(digest.hex()).join(file);
        replace(&at(&cut.1, "image.ext4"), b"c");
        std::fs::remove_file(at(&gone.1, "image.ext4")).unwrap();
        replace(&at(&odd.1, "manifest.json"), b"{");
        replace(&layout::references(cache).join(lost.0.file_name()), &vec![b'x'; 1 << 20]);

        assert!(resolve_reference(cache, &cut.0).is_err(), "who asks for one is told");
        let names = |found: Vec<NamedImage>| found.into_iter().map(|named| named.reference).collect::<Vec<_>>();
        assert_eq!(names(references(cache).unwrap()), std::slice::from_ref(&whole.0));
        assert_eq!(broken_references(cache).unwrap(), [&cut.0, &gone.0, &lost.0, &odd.0].map(Reference::clone));
        let pointed: Vec<_> = pointers(cache).unwrap().into_iter().map(|pointer| pointer.leads.digest().cloned()).collect();
        assert_eq!(pointed, [Some(cut.1.clone()), Some(gone.1.clone()), None, Some(odd.1.clone()), Some(whole.1.clone())]);
        for (image, is_whole) in [(&whole, true), (&cut, false), (&gone, false), (&odd, false), (&lost, true)] {
            assert_eq!(of_manifest(cache, &image.2).unwrap().is_some(), is_whole, "{}", image.0);
        }
        // Made again it is whole, and without its name it is nowhere.
        put(cache, "cut");
        assert_eq!(resolve_reference(cache, &cut.0).unwrap().unwrap().digest, cut.1);
        for reference in broken_references(cache).unwrap() {
            assert!(unname(cache, &reference).unwrap());
        }
        assert_eq!((broken_references(cache).unwrap(), names(references(cache).unwrap())), (vec![], vec![cut.0, whole.0]));
    }
}
