//! A Debian of somebody's own: a release and packages, from the mirrors of the host's apt, as one layer.
//!
//! ```text
//!   mmdebstrap ──► tmp/…/rootfs.tar ──► the way of every archive that is imported
//! ```
//!
//! What is in it is Debian's, but for what belongs to a machine and not to an image: its name, its resolver, its sources of packages.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use smolvm_model::reference::Reference;

use super::{BOOTSTRAP_TIMEOUT, DebianError, require_tools};
use crate::image::apt::{self, DebianSources};
use crate::image::error::ImageError;
use crate::image::guard;
use crate::image::namespace::Identity;
use crate::image::progress::{Report, tell};
use crate::image::registry::{ImportOptions, Pulled, layer_of_tool, workdir_of};
use crate::image::store::require_space;
use crate::proc::tool::Tool;

/// Tree, archive and image together, with room.
const SPACE_MIB: u64 = 1500;
const LONGEST: Duration = BOOTSTRAP_TIMEOUT;

/// Which Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianRecipe {
    /// The release.
    pub suite: SuiteName,
    /// Packages beside those that Debian requires.
    pub packages: Vec<PackageName>,
}

/// The name of a release, as in `bookworm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteName(String);

/// The name of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageName(String);

/// A text that is no such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a {what}: small letters, digits and {marks}")]
pub struct DebianNameError {
    text: String,
    what: &'static str,
    marks: &'static str,
}

macro_rules! debian_name {
    ($name:ident, $what:literal, $marks:literal) => {
        impl FromStr for $name {
            type Err = DebianNameError;

            fn from_str(text: &str) -> Result<Self, DebianNameError> {
                let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || $marks.contains(char::from(b));
                let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
                if first && (2..=100).contains(&text.len()) && text.bytes().all(inner) {
                    return Ok(Self(text.to_owned()));
                }
                Err(DebianNameError { text: text.chars().take(80).collect(), what: $what, marks: $marks })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

debian_name!(SuiteName, "release", "-");
debian_name!(PackageName, "package", "+-.");

/// The host's own release.
pub fn host_suite() -> Result<SuiteName, ImageError> {
    let codename = apt::debian_release()?;
    codename.parse().map_err(|_| apt::AptError::NotDebian { id: codename }.into())
}

/// Makes an image of it, and points a reference at that.
pub fn debootstrap(
    cache: &Path,
    reference: &Reference,
    recipe: &DebianRecipe,
    options: ImportOptions,
    report: Report<'_>,
) -> Result<Pulled, ImageError> {
    let identity = Identity::current();
    require_tools(identity)?;
    let sources = apt::debian_sources_of(&recipe.suite.0)?;
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    let work = workdir_of(cache, reference)?;
    require_space(cache, SPACE_MIB)?;
    tell(report, "image", format!("installing Debian {} into a directory, about half a minute", recipe.suite), 0.0);
    let layer = work.path().join("rootfs.tar");
    bootstrap(&work.path(), &layer, &sources, recipe, identity)?;
    layer_of_tool(cache, &work, layer, reference, options, report)
}

fn bootstrap(work: &Path, layer: &Path, sources: &DebianSources, recipe: &DebianRecipe, identity: Identity) -> Result<(), ImageError> {
    let program = match identity {
        // As root it mounts into the tree: not where the host, or a removal of what a killed build left, could see that.
        Identity::Root => Tool::new("unshare").args(["--mount", "--", "mmdebstrap", "--mode=root"]).env("TMPDIR", work),
        // The other uids could not reach into our private directory: mmdebstrap works in /tmp.
        Identity::User => Tool::new("mmdebstrap").arg("--mode=unshare"),
    };
    let mut tool = program.args(["--quiet", "--variant=minbase", "--architectures=amd64", "--format=tar", "--skip=output/dev"]);
    // What is interrupted is thrown away, so nothing needs a sync.
    tool = tool.arg("--dpkgopt=force-unsafe-io");
    if !recipe.packages.is_empty() {
        let packages: Vec<String> = recipe.packages.iter().map(PackageName::to_string).collect();
        tool = tool.args(["--include", &packages.join(",")]);
    }
    // Not in a file: in the namespace of an ordinary user our directory cannot be entered.
    tool = tool.arg(format!("--customize-hook={NEUTRAL}")).env("SMOLVM_SOURCES", &sources.for_guests);
    tool = tool.arg(&recipe.suite.0).arg(layer).args(&sources.lines);
    for (variable, proxy) in &sources.proxies {
        tool = tool.env(variable, proxy);
    }
    let output = tool.timeout(LONGEST).run().map_err(DebianError::from)?;
    if output.status.success() {
        return Ok(());
    }
    // The usual reasons are the mirror's, and those have their own words.
    match apt::complain(&output) {
        apt::AptError::Failed { complaint } => Err(DebianError::Bootstrap { complaint }.into()),
        error => Err(error.into()),
    }
}

/// Takes out what is the host's, and what a build leaves; the agent writes name, hosts, resolver and machine id at every start.
const NEUTRAL: &str = r#"cd "$1" && rm -f etc/apt/sources.list etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/apt/apt.conf.d/99mmdebstrap \
etc/hostname etc/resolv.conf etc/.pwd.lock etc/passwd- etc/group- etc/shadow- etc/gshadow- var/cache/debconf/*-old var/lib/dpkg/*-old var/log/*.log \
&& printf 'localhost\n' > etc/hostname && : > etc/resolv.conf \
&& printf %s "$SMOLVM_SOURCES" > etc/apt/sources.list.d/debian.sources"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_to_a_shell_or_a_list_are_none() {
        for good in ["bookworm", "sid", "trixie-backports"] {
            assert!(good.parse::<SuiteName>().is_ok(), "{good}");
        }
        for good in ["git", "libstdc++6", "python3.11", "systemd-sysv"] {
            assert!(good.parse::<PackageName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "A b", "a,b", "-a", "a b", "../x", "a;b", "?essential", "~i", "a/b", "a=1"] {
            assert!(bad.parse::<PackageName>().is_err() && bad.parse::<SuiteName>().is_err(), "{bad}");
        }
    }
}
