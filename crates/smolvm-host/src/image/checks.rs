//! What `setup --check` and `doctor` say about what guests boot from. Changes nothing.

use std::path::Path;

use super::build::BuiltIn;
use super::error::ImageError;
use super::packages::required_tools;
use super::{initramfs, kernel, layout, store};
use crate::embed;
use crate::proc::tool;

/// Below this, the next sandbox that writes much fills the disk.
const LOW_MIB: u64 = 2048;
const SETUP: &str = "smolvm setup";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// Works, with a limit.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable, as in `image.debian`.
    pub id: String,
    /// How it came out.
    pub status: CheckStatus,
    /// For a person, one line.
    pub summary: String,
    /// What was seen.
    pub evidence: String,
    /// The command that mends it.
    pub fix: Option<String>,
}

/// Looks at tools, kernel, initramfs, images and free space; reads small files only.
pub fn checks(cache: &Path) -> Vec<Check> {
    let mut checks = tools();
    checks.push(kernel_check(cache));
    checks.push(initramfs_check(cache));
    checks.extend(BuiltIn::ALL.map(|image| image_check(cache, image)));
    checks.push(space_check(cache));
    checks
}

/// The same for the content of every image: reads all of them.
pub fn verify_all(cache: &Path) -> Vec<Check> {
    let images = store::list(cache).unwrap_or_default();
    let kernel = kernel::current_kernel(cache).ok();
    let kernel = kernel.map(|kernel| content_check("kernel.content".to_owned(), &kernel.release, kernel::verify(&kernel)));
    let images = images.iter().map(|image| content_check(format!("image.{}.content", image.name), &image.name, store::verify(image)));
    kernel.into_iter().chain(images).collect()
}

fn content_check(id: String, name: &str, result: Result<(), ImageError>) -> Check {
    match result {
        Ok(()) => pass(id, format!("the content of {name} is what was published"), String::new()),
        Err(error) => fail(id, format!("the content of {name} is not what was published"), error.to_string(), SETUP),
    }
}

fn tools() -> Vec<Check> {
    let requirements = required_tools();
    let mut packages: Vec<&str> = requirements.iter().map(|requirement| requirement.package).collect();
    packages.dedup();
    let one = |package: &&str| {
        let of: Vec<_> = requirements.iter().filter(|requirement| requirement.package == *package).collect();
        let missing: Vec<&str> =
            of.iter().filter(|requirement| tool::find(requirement.tool).is_none()).map(|requirement| requirement.tool).collect();
        let why = of.first().map_or("", |requirement| requirement.why);
        let id = format!("package.{package}");
        if missing.is_empty() {
            pass(id, format!("{package} is installed"), why.to_owned())
        } else {
            let fix = format!("apt-get install --no-install-recommends {package}");
            fail(id, format!("{package} is not installed ({why})"), format!("not found: {}", missing.join(", ")), fix)
        }
    };
    packages.iter().map(one).collect()
}

fn kernel_check(cache: &Path) -> Check {
    let id = "kernel".to_owned();
    match kernel::current_kernel(cache) {
        Ok(kernel) => pass(id, format!("kernel {}", kernel.release), kernel.vmlinux.display().to_string()),
        Err(error) => fail(id, "no usable kernel".to_owned(), error.to_string(), SETUP),
    }
}

fn initramfs_check(cache: &Path) -> Check {
    let id = "initramfs".to_owned();
    if embed::agent().is_empty() {
        return fail(id, "this smolvm carries no guest agent".to_owned(), ImageError::NoAgent.to_string(), "cargo xtask build");
    }
    match kernel::current_kernel(cache) {
        Ok(kernel) => match initramfs::current(cache, &kernel, embed::agent()) {
            Some(initramfs) => pass(id, "the initramfs holds this smolvm's agent".to_owned(), initramfs.digest.to_string()),
            // The next start makes it, in milliseconds.
            None => Check {
                status: CheckStatus::Warn,
                ..fail(id, "the initramfs is not made yet; the next start makes it".to_owned(), String::new(), SETUP)
            },
        },
        Err(error) => fail(id, "no initramfs without a kernel".to_owned(), error.to_string(), SETUP),
    }
}

fn image_check(cache: &Path, image: BuiltIn) -> Check {
    let id = format!("image.{}", image.name());
    let fix = format!("{SETUP} --image {}", image.name());
    match store::resolve(cache, image.name()) {
        Ok(found) => pass(id, format!("image {} ({} MiB)", found.name, found.size_bytes >> 20), found.digest.to_string()),
        Err(error) => fail(id, format!("image {} is not usable", image.name()), error.to_string(), fix),
    }
}

fn space_check(cache: &Path) -> Check {
    let id = "disk.cache".to_owned();
    // The cache may not be there yet: the nearest directory that is tells as much.
    let existing = cache.ancestors().find(|path| path.exists()).unwrap_or(cache);
    match store::free_mib(existing) {
        Ok(free) if free >= LOW_MIB => pass(id, format!("{free} MiB free"), existing.display().to_string()),
        Ok(free) => Check {
            status: CheckStatus::Warn,
            ..fail(id, format!("only {free} MiB free"), existing.display().to_string(), format!("df -h {}", existing.display()))
        },
        Err(error) => {
            fail(id, "free space cannot be measured".to_owned(), error.to_string(), format!("df -h {}", layout::images(cache).display()))
        }
    }
}

fn pass(id: String, summary: String, evidence: String) -> Check {
    Check { id, status: CheckStatus::Pass, summary, evidence, fix: None }
}

fn fail(id: String, summary: String, evidence: String, fix: impl Into<String>) -> Check {
    Check { id, status: CheckStatus::Fail, summary, evidence, fix: Some(fix.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_prepared_is_told_with_the_command_that_mends_it() {
        let cache = tempfile::tempdir().unwrap();
        let found = checks(cache.path());
        for id in ["kernel", "image.minimal", "image.debian"] {
            let check = found.iter().find(|check| check.id == id).unwrap();
            assert_eq!(check.status, CheckStatus::Fail, "{id}");
            assert!(check.fix.as_deref().unwrap().starts_with(SETUP), "{id}");
        }
        assert!(found.iter().any(|check| check.id == "package.e2fsprogs" && check.status == CheckStatus::Pass));
        assert!(verify_all(cache.path()).is_empty());
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "a check made something");
        assert!(checks(&cache.path().join("not/there")).iter().any(|check| check.id == "disk.cache" && check.status != CheckStatus::Fail));
    }
}
