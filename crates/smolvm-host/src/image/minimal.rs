//! The `minimal` image: the distribution's static busybox, every applet linked, and the few files
//! under `/etc` that programs look for.
//!
//! Described as a list of entries and written by `debugfs`, so nothing is staged, mounted or owned by
//! the builder: any user gets the same bytes. The agent is pid 1, so there is no init system.

mod files;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use self::files::{DIRECTORIES, FILES, OWNERS};
use super::apt::{self, Apt};
use super::build::{Renew, intact};
use super::error::ImageError;
use super::ext4::{self, BLOCK, Shape};
use super::progress::{Report, tell};
use super::store::{self, Config, Image, require_space};
use super::workdir::Workdir;
use crate::fsx::{self, FsError};
use crate::proc::tool::{Tool, ToolError};

pub(super) const NAME: &str = "minimal";
/// Where commands are looked for in either image.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const UUID: &str = "5a3c0f0e-6d69-4e69-8d61-6c0000000001";
const SPACE_MIB: u64 = 64;
const BUSYBOX_CAP: u64 = 32 << 20;
const APPLETS_CAP: usize = 2000;
const BUILD_WAIT: Duration = Duration::from_mins(10);

/// Why the `minimal` image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum MinimalError {
    /// The package's program cannot be run.
    #[error("busybox does not say which applets it has")]
    NoApplets {
        /// What went wrong.
        #[source]
        source: ToolError,
    },
    /// It says something that is no list of applets.
    #[error("busybox names {count} applets, the first odd one {odd:?}")]
    OddApplets {
        /// How many.
        count: usize,
        /// One that is not like a path of an applet.
        odd: String,
    },
    /// It is longer than any busybox.
    #[error("busybox has {size} bytes")]
    TooLong {
        /// Its length.
        size: u64,
    },
}

/// Builds it, unless somebody else did while we waited.
pub(super) fn build(cache: &Path, renew: Renew, report: Report<'_>) -> Result<Image, ImageError> {
    let work = Workdir::new(cache, "image-minimal", BUILD_WAIT)?;
    if renew == Renew::IfMissing
        && let Some(image) = intact(cache, NAME)?
    {
        return Ok(image);
    }
    require_space(cache, SPACE_MIB)?;
    tell(report, NAME, "downloading busybox-static", 0.0);
    let apt = Apt::open(cache, report)?;
    let package = apt.download("busybox-static", &work.path(), report)?;
    drop(apt);
    tell(report, NAME, "building the file system", 0.5);
    let tree = work.path().join("tree");
    fsx::create_private_dir(&tree)?;
    apt::unpack(&package, &tree)?;
    let out = work.path().join("out");
    fsx::create_private_dir(&out)?;
    assemble(&work.path(), &tree.join("bin/busybox"), &out.join("image.ext4"))?;
    tell(report, NAME, "publishing", 0.9);
    let env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    let image = store::publish(cache, &out, NAME, Config { default_memory_mib: 128, env, origin: None })?;
    tell(report, NAME, "the image `minimal` is ready", 1.0);
    Ok(image)
}

/// Makes the file system `image` around `busybox`; `work` is for files on the way.
fn assemble(work: &Path, busybox: &Path, image: &Path) -> Result<(), ImageError> {
    let metadata = std::fs::symlink_metadata(busybox).map_err(FsError::on("find", busybox))?;
    if metadata.len() > BUSYBOX_CAP {
        return Err(MinimalError::TooLong { size: metadata.len() }.into());
    }
    std::fs::set_permissions(busybox, PermissionsExt::from_mode(0o755)).map_err(FsError::on("make executable", busybox))?;
    let applets = applets(busybox)?;
    let files = work.join("files");
    fsx::create_private_dir(&files)?;
    std::fs::copy(busybox, files.join("busybox")).map_err(FsError::on("copy", busybox))?;
    for (n, (_, _, content)) in FILES.iter().enumerate() {
        let path = files.join(n.to_string());
        std::fs::write(&path, content).map_err(FsError::on("write", &path))?;
    }
    let blocks = metadata.len().div_ceil(BLOCK) + FILES.len() as u64 + DIRECTORIES.len() as u64;
    let inodes = (FILES.len() + DIRECTORIES.len() + applets.len() + 1) as u64;
    ext4::format(image, Shape::tight(blocks, inodes, UUID))?;
    ext4::edit(image, &script(&applets), &files)?;
    Ok(ext4::check(image)?)
}

/// The `debugfs` commands that fill the file system.
fn script(applets: &[String]) -> String {
    let mut script = String::new();
    // Writing to a String cannot fail.
    for (path, mode) in DIRECTORIES {
        let _ = write!(script, "mkdir {path}\nsif {path} mode 04{mode:04o}\n");
    }
    script.push_str("write busybox bin/busybox\nsif bin/busybox mode 0100755\n");
    for (n, (path, mode, _)) in FILES.iter().enumerate() {
        let _ = write!(script, "write {n} {path}\nsif {path} mode 010{mode:04o}\n");
    }
    for (path, uid, gid) in OWNERS {
        let _ = write!(script, "sif {path} uid {uid}\nsif {path} gid {gid}\n");
    }
    for applet in applets {
        let _ = writeln!(script, "symlink {applet} /bin/busybox");
    }
    script
}

/// Every applet's path, as busybox itself lists them.
fn applets(busybox: &Path) -> Result<Vec<String>, MinimalError> {
    let output = Tool::new(busybox).arg("--list-full").run_ok().map_err(|source| MinimalError::NoApplets { source })?;
    let text = output.text();
    // `linuxrc` lies at the top and is for initramfs files of another kind.
    let listed = text.lines().filter(|line| !matches!(*line, "linuxrc" | "bin/busybox"));
    let mut applets: Vec<String> = listed.map(str::to_owned).collect();
    let odd = applets.iter().find(|applet| !is_applet(applet)).cloned();
    if odd.is_some() || !(100..APPLETS_CAP).contains(&applets.len()) {
        return Err(MinimalError::OddApplets { count: applets.len(), odd: odd.unwrap_or_default() });
    }
    applets.sort();
    applets.dedup();
    Ok(applets)
}

fn is_applet(path: &str) -> bool {
    let name = ["bin/", "sbin/", "usr/bin/", "usr/sbin/"].into_iter().find_map(|directory| path.strip_prefix(directory));
    name.is_some_and(|name| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'[' | b'_' | b'-' | b'+' | b'.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_paths_of_programs() {
        for good in ["bin/sh", "usr/bin/[", "usr/bin/[[", "sbin/run-init", "usr/bin/unlzma"] {
            assert!(is_applet(good), "{good}");
        }
        for bad in ["sh", "/bin/sh", "bin/", "bin/a b", "bin/../x", "bin/a/b", "etc/passwd", "bin/a\"b", "usr/bin/..", "linuxrc"] {
            assert!(!is_applet(bad), "{bad}");
        }
    }

    #[test]
    fn every_file_has_a_directory() {
        let has = |path: &str| DIRECTORIES.iter().any(|(directory, _)| *directory == path);
        for (path, _, _) in FILES {
            assert!(has(path.rsplit_once('/').unwrap().0), "{path}");
        }
        for (n, (path, _)) in DIRECTORIES.iter().enumerate() {
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(DIRECTORIES[..n].iter().any(|(directory, _)| *directory == parent), "{path} before {parent}");
            }
        }
    }

    #[test]
    fn nobody_has_a_password() {
        let shadow = FILES.iter().find(|(path, _, _)| *path == "etc/shadow").unwrap();
        assert_eq!(shadow.1, 0o640);
        assert!(shadow.2.lines().all(|line| matches!(line.split(':').nth(1), Some("*" | "!"))));
    }
}
