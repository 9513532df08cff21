//! `image rm`: a name goes, and with its last name the image, unless somebody needs it.

use smolvm_host::image::unused::{self, Part};
use smolvm_host::image::{self, BuiltIn, Digest, Pointer, template};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use super::failure::unusable;
use super::sizes::parts;
use crate::error::Error;
use crate::installation::Smolvm;

/// What `image rm` did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageRemoval {
    /// The names that went.
    pub removed: Vec<String>,
    /// Disk that came free.
    pub freed_bytes: u64,
}

impl Smolvm {
    /// Takes names away; if one of them is not there, or is the last one of an image that is needed, none goes.
    pub fn remove_images(&self, names: &[ImageName]) -> Result<ImageRemoval, Error> {
        let cache = &self.paths().cache;
        // Who uses or makes an image at this moment keeps the files from going, and the names go in any case.
        let (held, idle) = unused::idle_parts(cache).map_err(unusable)?;
        let pointers = image::pointers(cache).map_err(unusable)?;
        let mut chosen: Vec<&Pointer> = Vec::new();
        for name in names {
            let builtin = BuiltIn::by_name(name.as_str()).is_some();
            let reference = self.reference(name).filter(|_| !builtin).ok_or_else(|| {
                Error::new(ErrorCode::Refused, format!("\"{name}\" is an image that smolvm makes itself")).hint("smolvm setup --remove")
            })?;
            // The name is enough: what it points at may be damaged.
            let pointer = pointers
                .iter()
                .find(|pointer| pointer.reference == reference)
                .ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no image \"{name}\"")).hint("smolvm image list"))?;
            chosen.push(pointer);
        }
        let own = image::list(cache).map_err(unusable)?;
        for Pointer { reference, leads } in &chosen {
            let Some(digest) = leads.digest() else { continue };
            let stays = own.iter().any(|other| other.digest == *digest)
                || pointers.iter().any(|other| other.leads.digest() == Some(digest) && !chosen.contains(&other));
            if !stays {
                self.must_own_images(&format!("the image \"{reference}\""))?;
                self.check_unneeded(&reference.to_string(), digest)?;
            }
        }
        let going = going(cache, &chosen);
        let mut removal = ImageRemoval::default();
        let removed = self.unname_all(chosen, &mut removal.removed);
        // Else `prune` takes it later.
        let dropped =
            removed.and_then(|()| if idle.contains(&Part::Image) && !image::is_linked(cache) { self.drop_unnamed(&going) } else { Ok(0) });
        drop(held);
        removal.freed_bytes = dropped.map_err(|e| partly(&removal.removed, e))?;
        Ok(removal)
    }

    fn unname_all(&self, chosen: Vec<&Pointer>, removed: &mut Vec<String>) -> Result<(), Error> {
        for Pointer { reference, .. } in chosen {
            if image::unname(&self.paths().cache, reference).map_err(unusable)? {
                removed.push(reference.to_string());
            }
        }
        Ok(())
    }

    /// Nobody's disk lies over it, and nobody's memory was made with it.
    fn check_unneeded(&self, name: &str, digest: &Digest) -> Result<(), Error> {
        let in_use = |what: String, hint: &str| {
            Err(Error::new(ErrorCode::Refused, format!("the image \"{name}\" is needed by {what}")).hint(hint.to_owned()))
        };
        if self.needed_images()?.contains(digest.hex()) {
            return in_use("a sandbox or a snapshot".to_owned(), "smolvm list; smolvm snapshot list; delete those that need it first");
        }
        let digest = digest.to_string();
        let templates = template::list(&self.paths().cache).map_err(unusable)?;
        match templates.iter().find(|template| template.facts.image_digest == digest) {
            Some(template) => in_use(format!("the template {}", template.key), &format!("smolvm template delete {}", template.key)),
            None => Ok(()),
        }
    }

    /// Removes those of these images that have no name any more, while the locks are held that keep makers away.
    fn drop_unnamed(&self, going: &[String]) -> Result<u64, Error> {
        let cache = &self.paths().cache;
        let found = unused::unused(cache, &self.boot_id, &self.needed_images()?).map_err(unusable)?;
        let mut freed = 0;
        for one in found {
            if matches!(one.part, Part::Image | Part::Blob) && going.contains(&one.name) {
                freed += unused::drop_unused(cache, &one).map_err(unusable)?;
            }
        }
        Ok(freed)
    }
}

/// A failure after names went: which those are is in no other place.
fn partly(removed: &[String], e: Error) -> Error {
    if removed.is_empty() {
        return e;
    }
    let recovery = e.recovery.or_else(|| Some("smolvm image prune".to_owned()));
    Error { message: format!("the names went ({}), and then {}", removed.join(", "), e.message), recovery, ..e }
}

/// The digests of images and of what they were made of, as far as they are known: the rest of a damaged one is for `prune`.
fn going(cache: &std::path::Path, chosen: &[&Pointer]) -> Vec<String> {
    let mut going = Vec::new();
    for Pointer { reference, leads } in chosen {
        going.extend(leads.digest().map(|digest| digest.hex().to_owned()));
        going.extend(image::resolve_reference(cache, reference).ok().flatten().iter().flat_map(parts));
    }
    going
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_after_names_went_says_which() {
        let error = || unusable(image::ImageError::NoKernel);
        let bare = || Error { recovery: None, ..error() };
        assert_eq!(partly(&[], error()).message, error().message);
        let told = partly(&["a.test/b:1".to_owned()], error());
        assert!(told.message.starts_with("the names went (a.test/b:1)") && told.message.ends_with(&error().message), "{told:?}");
        assert_eq!(told.recovery, error().recovery);
        assert_eq!(partly(&["a".to_owned()], bare()).recovery.as_deref(), Some("smolvm image prune"));
    }
}
