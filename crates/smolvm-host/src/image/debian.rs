//! The `debian` image: the host's own release, from the host's own signed sources, with python3, git
//! and curl.
//!
//! ```text
//!   root:  mmdebstrap --mode=root ──► rootfs/ ──────────────────┐
//!   user:  mmdebstrap --mode=unshare ──► rootfs.tar ──(tar)──► rootfs/ ──(finish.sh)──► mke2fs -d ──► image.ext4
//!                                        └──── in a user namespace where uid 0 is the user ────────┘
//! ```
//! A user's tree belongs to uids of the user's subordinate range; `mke2fs` sees it in the namespace
//! in which those are 0 and up, so the image is the same whoever builds it.

mod finish;
mod recipe;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use self::finish::FINISH;
pub use self::recipe::{DebianNameError, DebianRecipe, PackageName, SuiteName, debootstrap, host_suite};
use super::apt::{self, DebianSources};
use super::build::{Renew, intact};
use super::error::ImageError;
use super::ext4::{self, Shape};
use super::minimal::PATH;
use super::namespace::Identity;
use super::progress::{Report, tell};
use super::store::{self, Config, Image, require_space};
use super::workdir::Workdir;
use crate::fsx;
use crate::proc::tool::{self, Tool, ToolError};

pub(super) const NAME: &str = "debian";
const UUID: &str = "5a3c0f0e-6d69-4e69-8d61-6c0000000003";
/// Beyond Debian's required packages: what the image is for, and what scripts take for granted.
/// procps: `ps`, `kill` and `top`. netbase: names of services and protocols, which resolvers of many
/// languages read. Not iproute2: the agent configures the network. No init system: the agent is pid 1.
const PACKAGES: &str = "python3,git,curl,ca-certificates,procps,netbase";
/// Manuals and translations are half as large as the programs. Copyright files stay.
/// The last one is for the build alone: what is interrupted is thrown away, so nothing needs a sync.
const DPKG_OPTIONS: [&str; 9] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bug/*",
    "force-unsafe-io",
];
/// Tree, archive and image together, with room.
const SPACE_MIB: u64 = 1500;
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_mins(20);
const FINISH_TIMEOUT: Duration = Duration::from_mins(5);
const BUILD_WAIT: Duration = Duration::from_mins(20);
/// A tree of more blocks than this (8 GiB) is not the one that was asked for.
const BLOCKS_CAP: u64 = 1 << 21;

/// Why the `debian` image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A program is missing.
    #[error("building the image `debian` needs `{tool}` (package {package})")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// The user may not map a range of uids.
    #[error("building the image `debian` without root needs a range of subordinate uids: {complaint}")]
    NoUserNamespace {
        /// What `unshare` says.
        complaint: String,
    },
    /// mmdebstrap failed.
    #[error("mmdebstrap failed: {complaint}")]
    Bootstrap {
        /// What it says.
        complaint: String,
    },
    /// The tree could not be finished.
    #[error("the tree of the image `debian` could not be finished: {complaint}")]
    Finish {
        /// What the script says.
        complaint: String,
    },
    /// The tree is out of all proportion.
    #[error("the tree of the image `debian` has a size that makes no sense: {answer:?}")]
    OddSize {
        /// Blocks and inodes as they were counted.
        answer: String,
    },
    /// A program could not be run.
    #[error(transparent)]
    Tool(#[from] ToolError),
}

/// Builds it, unless somebody else did while we waited.
pub(super) fn build(cache: &Path, renew: Renew, report: Report<'_>) -> Result<Image, ImageError> {
    let work = Workdir::new(cache, "image-debian", BUILD_WAIT)?;
    if renew == Renew::IfMissing
        && let Some(image) = intact(cache, NAME)?
    {
        return Ok(image);
    }
    let identity = Identity::current();
    require_tools(identity)?;
    require_space(cache, SPACE_MIB)?;
    let sources = apt::debian_sources()?;
    tell(report, NAME, format!("installing Debian {} into a directory, about half a minute", sources.codename), 0.05);
    bootstrap(&work.path(), &sources, identity)?;
    tell(report, NAME, "building the file system", 0.75);
    let out = work.path().join("out");
    fsx::create_private_dir(&out)?;
    let image = out.join("image.ext4");
    let shape = finish(&work.path(), &sources, identity)?;
    ext4::format_from(&image, shape, &work.path().join("rootfs"), identity)?;
    ext4::check(&image)?;
    tell(report, NAME, "publishing", 0.95);
    let env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
    let image = store::publish(cache, &out, NAME, Config { default_memory_mib: 512, env, origin: None })?;
    tell(report, NAME, "the image `debian` is ready", 1.0);
    Ok(image)
}

fn require_tools(identity: Identity) -> Result<(), DebianError> {
    let needed: &[(&str, &str)] = match identity {
        Identity::Root => &[("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")],
        Identity::User => &[
            ("mmdebstrap", "mmdebstrap"),
            ("mke2fs", "e2fsprogs"),
            ("newuidmap", "uidmap"),
            ("newgidmap", "uidmap"),
            ("unshare", "util-linux"),
        ],
    };
    if let Some((tool, package)) = needed.iter().find(|(program, _)| tool::find(program).is_none()) {
        return Err(DebianError::MissingTool { tool, package });
    }
    let tried = identity.tool("true").run()?;
    if tried.status.success() { Ok(()) } else { Err(DebianError::NoUserNamespace { complaint: tried.complaint() }) }
}

/// Leaves `rootfs` or `rootfs.tar` in `work`.
fn bootstrap(work: &Path, sources: &DebianSources, identity: Identity) -> Result<(), ImageError> {
    let program = match identity {
        // As root it mounts into the tree: not where the host, or a removal of what a killed build left, could see that.
        Identity::Root => Tool::new("unshare").args(["--mount", "--", "mmdebstrap"]),
        // As a user it has namespaces of its own anyway.
        Identity::User => Tool::new("mmdebstrap"),
    };
    let mut tool = program.args(["--quiet", "--variant=minbase", "--architectures=amd64", "--include", PACKAGES]);
    tool = tool.args(DPKG_OPTIONS.map(|option| format!("--dpkgopt={option}")));
    tool = match identity {
        // What a killed build leaves then lies where the next one finds it.
        Identity::Root => tool.args(["--mode=root", "--format=directory"]).env("TMPDIR", work),
        // The other uids could not reach into our private directory: mmdebstrap works in /tmp and hands over an archive.
        Identity::User => tool.args(["--mode=unshare", "--format=tar"]),
    };
    let target = work.join(if identity == Identity::Root { "rootfs" } else { "rootfs.tar" });
    tool = tool.arg(&sources.codename).arg(target).args(&sources.lines);
    // mmdebstrap does not read the host's apt configuration, which is where a proxy stands.
    for (variable, proxy) in &sources.proxies {
        tool = tool.env(variable, proxy);
    }
    let output = tool.timeout(BOOTSTRAP_TIMEOUT).run().map_err(DebianError::from)?;
    if output.status.success() {
        return Ok(());
    }
    // The usual reasons are the mirror's, and those have their own words.
    match apt::complain(&output) {
        apt::AptError::Failed { complaint } => Err(DebianError::Bootstrap { complaint }.into()),
        error => Err(error.into()),
    }
}

/// Makes the tree a guest's, and measures it.
fn finish(work: &Path, sources: &DebianSources, identity: Identity) -> Result<Shape, ImageError> {
    fsx::write_atomic(&work.join("debian.sources"), sources.for_guests.as_bytes(), 0o644)?;
    let output = identity.tool("sh").args(["-eu", "-c", FINISH, "finish"]).dir(work).timeout(FINISH_TIMEOUT).run();
    let output = output.map_err(DebianError::from)?;
    if !output.status.success() {
        return Err(DebianError::Finish { complaint: output.complaint() }.into());
    }
    let answer = output.text();
    let (blocks, inodes) = parse_size(&answer).ok_or_else(|| DebianError::OddSize { answer: answer.chars().take(100).collect() })?;
    Ok(Shape::tight(blocks, inodes, UUID))
}

pub(super) fn parse_size(answer: &str) -> Option<(u64, u64)> {
    let (blocks, inodes) = answer.trim().split_once(' ')?;
    let (blocks, inodes) = (blocks.parse().ok()?, inodes.parse().ok()?);
    (blocks <= BLOCKS_CAP && inodes <= BLOCKS_CAP).then_some((blocks, inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        assert_eq!(parse_size("50000 9000\n"), Some((50_000, 9000)));
        for bad in ["", "1", "a b", "-1 1", "1 2 3", "99999999 1", "1 18446744073709551615"] {
            assert_eq!(parse_size(bad), None, "{bad:?}");
        }
    }
}
