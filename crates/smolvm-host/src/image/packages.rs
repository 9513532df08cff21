//! Which programs of the host's `setup` and sandboxes need, where they come from, and installing them.

use crate::effect::Permit;
use std::time::Duration;

use super::progress::{Report, tell};
use crate::proc::tool::{self, Tool, ToolError};

const STEP: &str = "packages";
const INSTALL_TIMEOUT: Duration = Duration::from_mins(15);

/// One program that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requirement {
    /// Its file name.
    pub tool: &'static str,
    /// Debian's package that has it.
    pub package: &'static str,
    /// What smolvm does with it.
    pub why: &'static str,
    /// When it is needed.
    pub when: When,
}

/// When a program is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// By every sandbox or every setup.
    Always,
    /// To build the image `debian`.
    DebianImage,
    /// To build the image `debian` without root.
    DebianImageWithoutRoot,
}

/// Why packages were not installed.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// Only root can.
    #[error("installing packages needs root: {}", packages.join(" "))]
    NeedsRoot {
        /// What was to be installed.
        packages: Vec<String>,
    },
    /// A name that is not one.
    #[error("{name:?} is not the name of a package")]
    BadName {
        /// The name.
        name: String,
    },
    /// apt-get failed.
    #[error("the packages could not be installed")]
    Apt(#[from] ToolError),
}

const REQUIREMENTS: [Requirement; 10] = [
    Requirement { tool: "qemu-system-x86_64", package: "qemu-system-x86", why: "the hypervisor", when: When::Always },
    Requirement { tool: "apt-get", package: "apt", why: "downloads kernel and images, checking signatures", when: When::Always },
    Requirement { tool: "apt-cache", package: "apt", why: "finds the newest cloud kernel", when: When::Always },
    Requirement { tool: "dpkg-deb", package: "dpkg", why: "unpacks packages without installing them", when: When::Always },
    Requirement { tool: "mke2fs", package: "e2fsprogs", why: "makes root images and data disks", when: When::Always },
    Requirement { tool: "debugfs", package: "e2fsprogs", why: "fills them without mounting anything", when: When::Always },
    Requirement { tool: "e2fsck", package: "e2fsprogs", why: "checks them", when: When::Always },
    Requirement { tool: "mmdebstrap", package: "mmdebstrap", why: "builds the image `debian`", when: When::DebianImage },
    Requirement { tool: "newuidmap", package: "uidmap", why: "builds the image `debian` without root", when: When::DebianImageWithoutRoot },
    Requirement { tool: "newgidmap", package: "uidmap", why: "builds the image `debian` without root", when: When::DebianImageWithoutRoot },
];

/// Every program that is needed by whoever runs this.
pub fn required_tools() -> Vec<Requirement> {
    let root = rustix::process::geteuid().is_root();
    REQUIREMENTS.into_iter().filter(|requirement| !root || requirement.when != When::DebianImageWithoutRoot).collect()
}

/// The packages of those programs that are not there, each once.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&'static str> = required_tools()
        .iter()
        .filter(|requirement| tool::find(requirement.tool).is_none())
        .map(|requirement| requirement.package)
        .collect();
    missing.dedup();
    missing
}

/// Installs packages with apt-get, nothing that they merely recommend. Only ever on the caller's word.
pub fn install_packages(_permit: &Permit, packages: &[&str], report: Report<'_>) -> Result<(), PackageError> {
    if packages.is_empty() {
        return Ok(());
    }
    if let Some(name) = packages.iter().find(|name| !is_name(name)) {
        return Err(PackageError::BadName { name: (*name).to_owned() });
    }
    if !rustix::process::geteuid().is_root() {
        return Err(PackageError::NeedsRoot { packages: packages.iter().map(|name| (*name).to_owned()).collect() });
    }
    tell(report, STEP, format!("installing {}", packages.join(" ")), 0.0);
    if install(packages).is_err() {
        // No lists, or lists older than what the mirror keeps.
        tell(report, STEP, "fetching the package lists", 0.2);
        apt_get().arg("update").timeout(INSTALL_TIMEOUT).run_ok()?;
        tell(report, STEP, format!("installing {}", packages.join(" ")), 0.4);
        install(packages)?;
    }
    tell(report, STEP, "installed", 1.0);
    Ok(())
}

fn install(packages: &[&str]) -> Result<(), ToolError> {
    apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages).timeout(INSTALL_TIMEOUT).run_ok().map(drop)
}

fn apt_get() -> Tool {
    // Somebody else's apt may be running: wait for it rather than fail.
    Tool::new("apt-get")
        .args(["-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "APT::Get::AllowUnauthenticated=false"])
        .env("DEBIAN_FRONTEND", "noninteractive")
}

fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    (2..=128).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with(['+', '-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install_for_test(packages: &[&str], report: Report<'_>) -> Result<(), PackageError> {
        crate::effect::permitted(smolvm_model::effect::Effect::InstallPackages, |permit| install_packages(permit, packages, report))
            .unwrap()
    }

    #[test]
    fn nothing_but_names_of_packages_reaches_apt() {
        for bad in ["", "-o", "--allow-unauthenticated", "a b", "x=1", "../x", "A"] {
            let error = install_for_test(&[bad], &mut |_| {}).unwrap_err();
            assert!(matches!(error, PackageError::BadName { .. }), "{bad:?}: {error}");
        }
        install_for_test(&[], &mut |_| panic!("nothing to report")).unwrap();
    }

    #[test]
    fn root_needs_no_uidmap() {
        let root = rustix::process::geteuid().is_root();
        assert_eq!(required_tools().iter().any(|requirement| requirement.tool == "newuidmap"), !root);
    }
}
