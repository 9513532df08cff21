//! What guests boot: kernel, initramfs, images.

use smolvm_host::image::{self, BuiltIn, Image, ImageError};

use super::report::{CheckReport, chain};
use crate::installation::Smolvm;

pub(super) fn look(vm: &Smolvm) -> Vec<CheckReport> {
    let cache = &vm.paths().cache;
    let boot = image::checks(cache).into_iter().filter(|check| matches!(check.id.as_str(), "kernel" | "initramfs"));
    let mut reports: Vec<CheckReport> = boot.map(CheckReport::from).collect();
    let images: Vec<_> = BuiltIn::ALL.map(|which| (which.name(), image::resolve(cache, which.name()))).into();
    reports.extend(judge_images(&images));
    reports
}

/// An image that nobody asked for is no failure while another can be used; a damaged one always is.
fn judge_images(images: &[(&str, Result<Image, ImageError>)]) -> Vec<CheckReport> {
    let usable = images.iter().any(|(_, image)| image.is_ok());
    images.iter().map(|(name, image)| judge_image(name, image, usable)).collect()
}

fn judge_image(name: &str, image: &Result<Image, ImageError>, another_is_usable: bool) -> CheckReport {
    let id = format!("image.{name}");
    let setup = format!("smolvm setup --image {name}");
    match image {
        Ok(image) => CheckReport::pass(&id, format!("image {name}, {} MiB", image.size_bytes >> 20), image.digest.to_string()),
        Err(e @ ImageError::NotFound { .. }) if another_is_usable => {
            CheckReport::warn(&id, format!("the image {name} is not prepared"), chain(e)).mended_by(setup)
        }
        Err(e @ ImageError::NotFound { .. }) => {
            CheckReport::fail(&id, format!("the image {name} is not prepared"), chain(e)).mended_by(setup)
        }
        Err(e) => CheckReport::fail(&id, format!("the image {name} cannot be used"), chain(e)).mended_by(setup),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::CheckStatus;

    fn absent(name: &str) -> Result<Image, ImageError> {
        Err(ImageError::NotFound { name: name.to_owned(), available: Vec::new() })
    }

    fn present(name: &str) -> Image {
        Image {
            name: name.to_owned(),
            digest: image::Digest::of(&[b"x"]),
            path: "/x".into(),
            size_bytes: 5 << 20,
            created_unix: 0,
            default_memory_mib: 128,
            origin: None,
            env: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn one_image_is_enough_and_damage_is_not_excused() {
        let damaged = || Err(ImageError::WrongSize { path: "/x".into(), expected: 7 });
        let statuses = |minimal, debian| {
            let reports = judge_images(&[("minimal", minimal), ("debian", debian)]);
            assert!(reports.iter().all(|r| (r.status == CheckStatus::Pass) == r.fix.is_none()));
            (reports[0].status, reports[1].status)
        };
        assert_eq!(statuses(absent("minimal"), absent("debian")), (CheckStatus::Fail, CheckStatus::Fail));
        assert_eq!(statuses(Ok(present("minimal")), absent("debian")), (CheckStatus::Pass, CheckStatus::Warn));
        assert_eq!(statuses(Ok(present("minimal")), damaged()), (CheckStatus::Pass, CheckStatus::Fail));
    }
}
