//! `cargo xtask deps`: the system packages, and their installation through apt.
//!
//! The list is short because smolvm's own code does what other tools would be needed for: kernel
//! and busybox packages are downloaded and unpacked by `smolvm setup`, never installed; initramfs,
//! QMP, TAPs and the guest link need no tool at all.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::sh::{Cmd, step, which};

/// What the packages are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compiling.
    Build,
    /// The demonstration: everything a user needs.
    Demo,
    /// All tests: what a user needs, with and without rights.
    Test,
    /// The fuzz targets.
    Fuzz,
}

impl FromStr for Purpose {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "build" => Ok(Self::Build),
            "demo" => Ok(Self::Demo),
            "test" => Ok(Self::Test),
            "fuzz" => Ok(Self::Fuzz),
            other => bail!("deps --for takes build, demo, test or fuzz, not {other:?}"),
        }
    }
}

/// Who needs a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Compiling.
    Build,
    /// Running smolvm.
    Run,
    /// Running smolvm without rights; tests do both.
    RunWithoutRights,
    /// Looking at smolvm from outside, in tests.
    Test,
    /// Building the fuzz targets.
    Fuzz,
}

struct Package {
    name: &'static str,
    need: Need,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package { name: "gcc", need: Need::Build, why: "links, and compiles the bundled SQLite" },
    Package { name: "libc6-dev", need: Need::Build, why: "the static C library the agent is linked with" },
    Package { name: "qemu-system-x86", need: Need::Run, why: "the hypervisor" },
    Package { name: "nftables", need: Need::Run, why: "NAT and the closed default between guests" },
    Package { name: "iproute2", need: Need::Run, why: "links and addresses of TAP devices" },
    Package { name: "e2fsprogs", need: Need::Run, why: "mke2fs for root images and data disks" },
    Package { name: "mmdebstrap", need: Need::Run, why: "builds the debian image from the host's own apt sources" },
    Package { name: "passt", need: Need::RunWithoutRights, why: "network of a sandbox started without rights" },
    Package { name: "qemu-utils", need: Need::Test, why: "qemu-img: what others make of the layers of a disk" },
    Package { name: "xfsprogs", need: Need::Test, why: "mkfs.xfs: a file system that shares blocks" },
    Package { name: "strace", need: Need::Test, why: "shows that nothing is changed outside the gate" },
    Package { name: "docker-registry", need: Need::Test, why: "a registry that nobody here wrote, on the loopback" },
    Package { name: "apache2-utils", need: Need::Test, why: "htpasswd: the registry with a login" },
    Package { name: "openssl", need: Need::Test, why: "certificates and signed tokens of the registries in the tests" },
    Package { name: "skopeo", need: Need::Test, why: "copies images into the registry and reads what is saved" },
    Package { name: "gpg", need: Need::Test, why: "signs the small mirror that `setup` is tried with" },
    Package { name: "gpg-agent", need: Need::Test, why: "holds the key for it" },
    Package { name: "attr", need: Need::Test, why: "getfattr: extended attributes of the trees that are compared" },
    Package { name: "umoci", need: Need::Test, why: "unpacks the same images: the trees are compared" },
    Package { name: "uidmap", need: Need::RunWithoutRights, why: "mmdebstrap without root maps uids through newuidmap" },
    Package { name: "g++", need: Need::Fuzz, why: "compiles libFuzzer, which the fuzz targets are linked with" },
];

/// The task: installs what is missing.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    let wanted: Vec<&Package> = PACKAGES.iter().filter(|package| wants(purpose, is_root(), package.need)).collect();
    let missing: Vec<&Package> = match installed_packages(&wanted)? {
        Some(installed) => wanted.iter().copied().filter(|package| !installed.iter().any(|name| name == package.name)).collect(),
        // Not Debian: what counts is whether the programs are there, and doctor says that in detail.
        None => return not_debian(&wanted),
    };
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        step(&format!("missing: {} ({})", package.name, package.why));
    }
    install(&missing.iter().map(|package| package.name).collect::<Vec<_>>())
}

fn wants(purpose: Purpose, root: bool, need: Need) -> bool {
    match (purpose, need) {
        (_, Need::Build)
        | (Purpose::Demo | Purpose::Test, Need::Run)
        | (Purpose::Test, Need::RunWithoutRights | Need::Test)
        | (Purpose::Fuzz, Need::Fuzz) => true,
        (Purpose::Demo, Need::RunWithoutRights) => !root,
        (Purpose::Build | Purpose::Fuzz, Need::Run | Need::RunWithoutRights)
        | (Purpose::Demo | Purpose::Build | Purpose::Fuzz, Need::Test)
        | (Purpose::Build | Purpose::Demo | Purpose::Test, Need::Fuzz) => false,
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The wanted packages dpkg has; `None` where there is no dpkg.
fn installed_packages(wanted: &[&Package]) -> Result<Option<Vec<String>>> {
    if which("dpkg-query").is_none() {
        return Ok(None);
    }
    // Its status is 1 as soon as one package is unknown, which is an answer, not a failure.
    let (_, out, _) = Cmd::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"])
        .args(wanted.iter().map(|package| package.name))
        .captured()?;
    Ok(Some(out.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()))
}

fn not_debian(wanted: &[&Package]) -> Result<()> {
    let programs = ["gcc", "qemu-system-x86_64", "nft", "ip", "mke2fs"];
    let missing: Vec<&str> = programs.iter().copied().filter(|program| which(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    bail!(
        "these programs are missing: {}; this is not Debian, so install what your distribution calls {}",
        missing.join(", "),
        names.join(", ")
    )
}

fn install(names: &[&str]) -> Result<()> {
    let elevate = elevation(names)?;
    // Without any list apt knows nothing; with an old one it may not know this package.
    let mut updated = false;
    if lists_are_empty(Path::new("/var/lib/apt/lists")) || !all_known(names)? {
        update(&elevate)?;
        updated = true;
    }
    step(&format!("installing {}", names.join(" ")));
    let attempt = || apt(&elevate).args(["install", "--yes", "--no-install-recommends"]).args(names).run();
    match attempt() {
        Ok(()) => Ok(()),
        // A list that is too old names files the mirror no longer has.
        Err(_) if !updated => {
            update(&elevate)?;
            attempt()
        }
        Err(error) => Err(error),
    }
}

/// The words that go before apt-get to run it as root.
fn elevation(names: &[&str]) -> Result<Vec<&'static str>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if which("sudo").is_none() {
        bail!("as root, run: apt-get install --no-install-recommends {}", names.join(" "));
    }
    step("apt-get needs root: sudo may ask for your password");
    Ok(vec!["sudo"])
}

fn apt(elevate: &[&'static str]) -> Cmd {
    let words: Vec<&str> = elevate.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).collect();
    // Somebody else's apt may be running: wait for it rather than fail.
    Cmd::new(words[0])
        .args(&words[1..])
        .args(["-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0", "-qq"])
        .inherit_stdin()
        .stdout_to_stderr()
}

fn update(elevate: &[&'static str]) -> Result<()> {
    step("apt-get update");
    apt(elevate).arg("update").run().context("the package lists could not be refreshed")
}

fn lists_are_empty(lists: &Path) -> bool {
    let is_list = |name: &str| name.contains("_Packages") || name.contains("_Release") || name.contains("_InRelease");
    std::fs::read_dir(lists).map_or(true, |mut entries| !entries.any(|e| e.is_ok_and(|e| is_list(&e.file_name().to_string_lossy()))))
}

fn all_known(names: &[&str]) -> Result<bool> {
    let (status, out, _) = Cmd::new("apt-cache").args(["policy"]).args(names).captured()?;
    let candidates = out.lines().filter(|line| line.trim_start().starts_with("Candidate:") && !line.ends_with("(none)")).count();
    Ok(status.success() && candidates == names.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_grow() {
        let count = |purpose, root| PACKAGES.iter().filter(|package| wants(purpose, root, package.need)).count();
        assert!(count(Purpose::Build, true) < count(Purpose::Demo, true));
        assert!(count(Purpose::Demo, true) < count(Purpose::Demo, false));
        assert_eq!(count(Purpose::Test, true) + 1, PACKAGES.len());
        assert_eq!(count(Purpose::Fuzz, true), count(Purpose::Build, true) + 1);
    }

    #[test]
    fn lists_without_an_index_are_empty() {
        let directory = tempfile::tempdir().unwrap();
        assert!(lists_are_empty(&directory.path().join("absent")));
        std::fs::write(directory.path().join("lock"), "").unwrap();
        assert!(lists_are_empty(directory.path()));
        std::fs::write(directory.path().join("deb.example_dists_stable_InRelease"), "").unwrap();
        assert!(!lists_are_empty(directory.path()));
    }

    #[test]
    fn unknown_purposes_are_refused() {
        assert!("fun".parse::<Purpose>().is_err());
    }
}
