//! An apt of our own: Debian's sources only, its own lists and cache, nothing installed.
//!
//! ```text
//!   /etc/apt/sources.list{,.d} ──(sources.rs)──► apt/sources.list ─┐
//!   /etc/apt/apt.conf.d (proxies and the like) ────────────────────┼─► apt-get -c apt/apt.conf
//!                                                 apt/apt.conf ────┘     update │ download
//! ```
//!
//! Invariants: the same for root and for users, and on a machine whose own lists are empty; the host's
//! apt state is never written, its hooks never run. Lists are accepted only with a signature by
//! Debian's keyring, packages only with the hash those lists give, checked by apt and then by us.

mod config;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod sources;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sources::{KEYRINGS, Sources};
pub use sources::{SkipReason, SourceProblem};

use smolvm_model::effect::Effect;

use super::digest::Digest;
use super::layout;
use super::progress::{Report, tell};
use crate::effect::{Fault, perform};
use crate::fsx::{self, FsError};
use crate::lock::{self, Lock, LockError};
use crate::proc::tool::{Output, Tool, ToolError};

const UPDATE_TIMEOUT: Duration = Duration::from_mins(3);
const DOWNLOAD_TIMEOUT: Duration = Duration::from_mins(5);
/// Lists older than this are fetched again: a mirror drops what a newer version replaced.
const LISTS_AGE: Duration = Duration::from_hours(24);
const SOURCE_FILE_CAP: u64 = 1 << 20;
/// A package is at most this long; the kernel's has 27 MB.
const PACKAGE_CAP: u64 = 512 << 20;

/// Why a package did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// The host is another distribution.
    #[error("packages are taken from Debian's sources, and this host is `{id}`")]
    NotDebian {
        /// `ID` of `/etc/os-release`.
        id: String,
    },
    /// Without it nothing can be checked.
    #[error("Debian's keyring is not installed (package debian-archive-keyring)")]
    NoKeyring,
    /// apt's configuration cannot name the cache.
    #[error("the path {path:?} has characters that apt's configuration cannot hold")]
    OddPath {
        /// The directory.
        path: PathBuf,
    },
    /// The host has no apt source of Debian's own.
    #[error("none of the host's apt sources is Debian's own for {codename} ({} others are not used)", skipped.len())]
    NoSources {
        /// The host's release.
        codename: String,
        /// What there is instead.
        skipped: Vec<SourceProblem>,
    },
    /// A source is not signed by Debian, or not at all.
    #[error("a source of packages is not signed by Debian's keyring: {complaint}")]
    NotSigned {
        /// What apt says.
        complaint: String,
    },
    /// The mirror could not be reached.
    #[error("the package mirror could not be reached: {complaint}")]
    Unreachable {
        /// What apt says.
        complaint: String,
    },
    /// The disk is full.
    #[error("no space is left for packages: {complaint}")]
    NoSpace {
        /// What apt says.
        complaint: String,
    },
    /// apt failed in another way.
    #[error("apt failed: {complaint}")]
    Failed {
        /// What apt says.
        complaint: String,
    },
    /// The sources have no such package.
    #[error("Debian's sources have no package `{package}`")]
    NoSuchPackage {
        /// The package.
        package: String,
    },
    /// apt said something that is not understood.
    #[error("apt's answer about `{package}` is not understood")]
    Answer {
        /// The package.
        package: String,
    },
    /// What arrived is not what the signed lists name.
    #[error("the package `{package}` does not have the content that the signed lists name")]
    WrongContent {
        /// The package.
        package: String,
    },
    /// apt or dpkg could not be run.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Another command is using our apt.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Our apt, configured and with lists; holds its lock.
#[derive(Debug)]
pub(super) struct Apt {
    directory: PathBuf,
    _lock: Lock,
}

/// A package as the signed lists know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) package: String,
    pub(super) file: String,
    pub(super) size: u64,
    pub(super) sha256: Digest,
}

impl From<Fault> for AptError {
    fn from(fault: Fault) -> Self {
        Self::Fs(fault.into())
    }
}

impl Apt {
    /// Configures it from the host's sources, and fetches lists that are missing or old.
    pub(super) fn open(cache: &Path, report: Report<'_>) -> Result<Self, AptError> {
        let host = Path::new("/etc");
        let sources = host_sources(host)?;
        let keyring = keyring()?;
        Self::with_sources(cache, &sources.render(keyring, "amd64"), report)
    }

    /// The same with the text of a sources file.
    fn with_sources(cache: &Path, sources: &str, report: Report<'_>) -> Result<Self, AptError> {
        let directory = layout::apt(cache);
        if !config::can_hold(&directory) {
            return Err(AptError::OddPath { path: directory });
        }
        let lock = lock::take(&layout::lock(cache, "apt")?, DOWNLOAD_TIMEOUT)?;
        let apt = Self { directory, _lock: lock };
        perform(Effect::PackageLists, |_| apt.configure(sources))?;
        if !apt.lists_are_fresh() {
            apt.update(report)?;
        }
        Ok(apt)
    }

    /// Writes apt's configuration. Lists of other sources are none of these: their stamp goes before the sources change.
    fn configure(&self, sources: &str) -> Result<(), FsError> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            fsx::create_private_dir(&self.directory.join(sub))?;
        }
        fsx::write_atomic(&self.directory.join("apt.conf"), config::text(&self.directory).as_bytes(), 0o644)?;
        let written = self.directory.join("sources.list");
        if std::fs::read_to_string(&written).is_ok_and(|old| old == sources) {
            return Ok(());
        }
        let _ = std::fs::remove_file(self.stamp());
        fsx::write_atomic(&written, sources.as_bytes(), 0o644)
    }

    /// What a dependency like `linux-image-…-cloud-amd64` of a metapackage is called.
    pub(super) fn only_dependency(&self, package: &str) -> Result<String, AptError> {
        let output = self.tool("apt-cache").args(["show", "--no-all-versions", package]).run()?;
        if !output.status.success() {
            return Err(AptError::NoSuchPackage { package: package.to_owned() });
        }
        let text = output.text();
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
        let first = depends.split([',', '|', '(']).next().unwrap_or_default().trim();
        if is_package_name(first) { Ok(first.to_owned()) } else { Err(AptError::Answer { package: package.to_owned() }) }
    }

    /// Which file the lists offer for a package, and its hash.
    pub(super) fn candidate(&self, package: &str) -> Result<Candidate, AptError> {
        let output = self.tool("apt-get").args(["download", "--print-uris", package]).run()?;
        if !output.status.success() {
            let complaint = output.complaint();
            if complaint.contains("Unable to locate package") || complaint.contains("no installation candidate") {
                return Err(AptError::NoSuchPackage { package: package.to_owned() });
            }
            return Err(complain(&output));
        }
        parse_candidate(package, &output.text()).ok_or_else(|| AptError::Answer { package: package.to_owned() })
    }

    /// Downloads a package into `into`, checked; fetches the lists again when the mirror has moved on.
    pub(super) fn download(&self, package: &str, into: &Path, report: Report<'_>) -> Result<PathBuf, AptError> {
        let candidate = self.candidate(package)?;
        match self.fetch(&candidate, into) {
            Err(AptError::Unreachable { .. } | AptError::Failed { .. } | AptError::WrongContent { .. }) => {
                self.update(report)?;
                self.fetch(&self.candidate(package)?, into)
            }
            other => other,
        }
    }

    fn fetch(&self, candidate: &Candidate, into: &Path) -> Result<PathBuf, AptError> {
        let wrong = || AptError::WrongContent { package: candidate.package.clone() };
        let output = self.tool("apt-get").args(["download", "-qq", &candidate.package]).dir(into).timeout(DOWNLOAD_TIMEOUT).run()?;
        if !output.status.success() {
            return Err(complain(&output));
        }
        let path = into.join(&candidate.file);
        let length = std::fs::symlink_metadata(&path).map_err(FsError::on("find the download", &path))?;
        if !length.is_file() || length.len() != candidate.size {
            return Err(wrong());
        }
        if Digest::of_file(&path).map_err(FsError::on("read", &path))? == candidate.sha256 { Ok(path) } else { Err(wrong()) }
    }

    fn update(&self, report: Report<'_>) -> Result<(), AptError> {
        tell(report, "packages", "fetching Debian's package lists", 0.0);
        perform(Effect::PackageLists, |_| self.fetch_lists())?;
        tell(report, "packages", "package lists are there", 1.0);
        Ok(())
    }

    fn fetch_lists(&self) -> Result<(), AptError> {
        let stamp = self.stamp();
        let _ = std::fs::remove_file(&stamp);
        // Errors of single sources are warnings to apt, unless told otherwise.
        let output = self.tool("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]).timeout(UPDATE_TIMEOUT).run()?;
        if !output.status.success() || output.complaint().contains("is not signed") {
            return Err(complain(&output));
        }
        Ok(fsx::write_atomic(&stamp, b"", 0o644)?)
    }

    fn lists_are_fresh(&self) -> bool {
        let written = std::fs::metadata(self.stamp()).and_then(|metadata| metadata.modified());
        // A clock that was set back makes the age unknown: fetch again.
        written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age < LISTS_AGE))
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("lists.complete")
    }

    fn tool(&self, program: &str) -> Tool {
        Tool::new(program).arg("-c").arg(self.directory.join("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive")
    }
}

/// Unpacks a package's files into the directory `into`; runs none of its scripts.
pub(super) fn unpack(package: &Path, into: &Path) -> Result<(), AptError> {
    let output = Tool::new("dpkg-deb").arg("-x").arg(package).arg(into).timeout(DOWNLOAD_TIMEOUT).run()?;
    if output.status.success() { Ok(()) } else { Err(complain(&output)) }
}

/// Debian's own sources of this host, in the forms that building an image needs.
#[derive(Debug)]
pub(super) struct DebianSources {
    /// As in `bookworm`.
    pub(super) codename: String,
    /// One-line entries, each held to the keyring.
    pub(super) lines: Vec<String>,
    /// A sources file for the image, without what only makes sense on this host.
    pub(super) for_guests: String,
    /// Environment variables for proxies that apt is configured to use.
    pub(super) proxies: Vec<(&'static str, String)>,
}

/// The host's release.
pub(super) fn debian_release() -> Result<String, AptError> {
    release(Path::new("/etc"))
}

/// Reads them.
pub(super) fn debian_sources() -> Result<DebianSources, AptError> {
    debian_sources_of(&debian_release()?)
}

/// The same for another release on the same mirrors.
pub(super) fn debian_sources_of(suite: &str) -> Result<DebianSources, AptError> {
    let etc = Path::new("/etc");
    let (sources, keyring) = (host_sources(etc)?.of_release(&release(etc)?, suite), keyring()?);
    let mut proxies = Vec::new();
    for (variable, option) in [("http_proxy", "Acquire::http::Proxy"), ("https_proxy", "Acquire::https::Proxy")] {
        let output = Tool::new("apt-config").args(["dump", "--no-empty", "--format", "%v%n", option]).run()?;
        let value = output.text().lines().next().unwrap_or_default().to_owned();
        if value.starts_with("http") && value.bytes().all(|b| b.is_ascii_graphic()) {
            proxies.push((variable, value));
        }
    }
    let lines = sources.render(keyring, "amd64").lines().map(str::to_owned).collect();
    Ok(DebianSources { codename: suite.to_owned(), lines, for_guests: sources.render_for_guests(keyring), proxies })
}

/// Debian's keyring on this host.
pub(super) fn keyring() -> Result<&'static str, AptError> {
    KEYRINGS.into_iter().find(|path| Path::new(path).is_file()).ok_or(AptError::NoKeyring)
}

fn host_sources(etc: &Path) -> Result<Sources, AptError> {
    let codename = release(etc)?;
    let mut files = vec![etc.join("apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("apt/sources.list.d")) {
        files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    files.sort();
    let mut sources = Sources::default();
    for file in files {
        // A source that cannot be read (rights, size, encoding) is one that is not used.
        if std::fs::metadata(&file).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= SOURCE_FILE_CAP)
            && let Ok(text) = std::fs::read_to_string(&file)
        {
            sources.add(&file, &text, &codename);
        }
    }
    if sources.used.is_empty() { Err(AptError::NoSources { codename, skipped: sources.skipped }) } else { Ok(sources) }
}

fn release(etc: &Path) -> Result<String, AptError> {
    let path = etc.join("os-release");
    let text = std::fs::read_to_string(&path).map_err(FsError::on("read", &path))?;
    let value = |key: &str| text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"').to_owned()));
    let id = value("ID").unwrap_or_default();
    match value("VERSION_CODENAME") {
        Some(codename) if id == "debian" && is_package_name(&codename) => Ok(codename),
        _ => Err(AptError::NotDebian { id }),
    }
}

/// `'uri' file size SHA256:hex`
fn parse_candidate(package: &str, text: &str) -> Option<Candidate> {
    let mut words = text.lines().find(|line| line.starts_with('\''))?.split_whitespace().skip(1);
    let (file, size, hash) = (words.next()?, words.next()?, words.next()?);
    let plain = file.strip_suffix(".deb").is_some_and(|stem| !stem.is_empty()) && !file.starts_with('.') && !file.contains('/');
    let sha256 = hash.strip_prefix("SHA256:")?.parse().ok()?;
    let size = size.parse().ok().filter(|size| *size <= PACKAGE_CAP)?;
    plain.then(|| Candidate { package: package.to_owned(), file: file.to_owned(), size, sha256 })
}

fn is_package_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.');
    name.len() >= 2 && name.len() <= 128 && name.bytes().all(inner) && name.as_bytes()[0].is_ascii_alphanumeric()
}

/// Tells the causes apart that a person can do something about.
pub(super) fn complain(output: &Output) -> AptError {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaint = output.complaint();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(&["No space left on device", "You don't have enough free space", "Disk quota exceeded"]) {
        AptError::NoSpace { complaint }
    } else if says(&[
        "is not signed",
        "NO_PUBKEY",
        "EXPKEYSIG",
        "BADSIG",
        "cannot be authenticated",
        "were invalid",
        "couldn't be verified",
    ]) {
        AptError::NotSigned { complaint }
    } else if says(&[
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect",
        "Connection timed out",
        "Failed to fetch",
        "Network is unreachable",
    ]) {
        AptError::Unreachable { complaint }
    } else {
        AptError::Failed { complaint }
    }
}

#[cfg(test)]
mod tests;
