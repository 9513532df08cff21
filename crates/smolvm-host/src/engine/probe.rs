//! What QEMU is on this host: its version, and every file it opens to run a microvm.
//!
//! The jail shows the hypervisor these files and no others, so the list is made by asking those who
//! know: the loader (`--list`) for libraries, QEMU (`-L help`) for its firmware directories. The
//! answer is cached; a cached answer is used only while every file in it is still the same one (device,
//! inode, size, modification time), which costs one `stat` each.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::elf;
use crate::fsx;
use crate::image::Digest;
use crate::proc::tool::{self, Tool, ToolError};

/// The program's name.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// What the loader is asked for must not be long: QEMU links about fifty libraries.
const FILES_CAP: usize = 512;
/// Size of a cache file we would write: about 200 bytes per file.
const CACHE_CAP: u64 = 1 << 20;
/// Directories the loader searches without `ld.so.cache`.
const LOADER_DIRS: [&str; 8] = [
    "/lib",
    "/usr/lib",
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/",
    "/lib/",
];
/// Where QEMU keeps its loadable parts.
const MODULE_DIRS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib/qemu"];
/// The loadable part a microvm under TCG needs.
const TCG_MODULE: &str = "accel-tcg-x86_64.so";
/// The firmware a microvm opens: the one that enters the kernel, and its option ROM.
const FIRMWARE: [&str; 2] = ["bios-microvm.bin", "pvh.bin"];

/// A file the hypervisor opens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineFile {
    /// The file itself, no symlink in its path.
    pub source: PathBuf,
    /// The path by which the hypervisor opens it.
    pub target: PathBuf,
    /// Device, inode, size and modification time when it was listed.
    pub id: FileId,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// The device it lies on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its length.
    pub size: u64,
    /// Its modification time in nanoseconds.
    pub mtime: i128,
}

/// A QEMU version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    /// 7 in 7.2.22.
    pub major: u16,
    /// 2 in 7.2.22.
    pub minor: u16,
    /// 22 in 7.2.22.
    pub micro: u16,
}

/// The hypervisor on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// The executable.
    pub binary: EngineFile,
    /// What it says it is.
    pub version: QemuVersion,
    /// Loader, libraries, loadable parts and firmware.
    pub libraries: Vec<EngineFile>,
}

/// Why there is no usable hypervisor.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It is not installed.
    #[error("{PROGRAM} is not installed")]
    Missing,
    /// A file cannot be looked at.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Asking it, or the loader, failed.
    #[error("cannot ask what {} needs", path.display())]
    Ask {
        /// Who was asked.
        path: PathBuf,
        /// What went wrong.
        source: ToolError,
    },
    /// The answer makes no sense.
    #[error("{} gave no {wanted} that can be understood", path.display())]
    Answer {
        /// Who was asked.
        path: PathBuf,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A library it links is not there.
    #[error("{} links the library {library}, which is missing", path.display())]
    LibraryMissing {
        /// Who links it.
        path: PathBuf,
        /// Its name.
        library: String,
    },
    /// A firmware file is not there.
    #[error("QEMU's firmware file {name} is missing")]
    FirmwareMissing {
        /// Its name.
        name: &'static str,
    },
    /// It is too old.
    #[error("QEMU {found} is too old, {} is needed", QemuVersion::OLDEST)]
    TooOld {
        /// The version found.
        found: QemuVersion,
    },
}

impl QemuVersion {
    /// The first version with stream network devices that take a descriptor.
    pub const OLDEST: Self = Self { major: 7, minor: 2, micro: 0 };
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl Engine {
    /// Finds the hypervisor (in the directories tools live in, or at `explicit`) and what it needs,
    /// from `cache_dir` where nothing has changed since.
    pub fn find(explicit: Option<&Path>, cache_dir: &Path) -> Result<Self, ProbeError> {
        let path = match explicit {
            Some(path) => path.to_owned(),
            None => tool::find(PROGRAM).ok_or(ProbeError::Missing)?,
        };
        let binary = EngineFile::at(&path)?;
        let cache = cache_dir.join(format!("qemu-{:x}-{:x}.json", binary.id.dev, binary.id.ino));
        if let Some(cached) = read_cache(&cache).filter(|c| c.binary == binary && c.is_unchanged()) {
            return Ok(cached);
        }
        let engine = Self::ask(binary)?;
        // A cache that cannot be written costs the questions again next time, nothing else.
        if let Ok(json) = serde_json::to_vec(&engine) {
            let _ = fsx::cache_file(&cache, &json);
        }
        Ok(engine)
    }

    /// Which file the hypervisor is, without asking it anything.
    pub fn executable(explicit: Option<&Path>) -> Option<FileId> {
        let path = explicit.map(Path::to_owned).or_else(|| tool::find(PROGRAM))?;
        FileId::of(&path).ok()
    }

    /// Its version, and a digest over every file that it is made of: a library or a firmware that was replaced is another.
    /// The same after a reboot, which may number devices anew.
    pub fn fingerprint(&self) -> String {
        let files = std::iter::once(&self.binary).chain(&self.libraries);
        let listed: Vec<String> = files
            .map(|file| {
                let FileId { size, mtime, .. } = file.id;
                format!("{} {size} {mtime}\n", file.target.display())
            })
            .collect();
        let digest = Digest::of(&listed.iter().map(String::as_bytes).collect::<Vec<_>>());
        format!("{} {}", self.version, digest.short())
    }

    /// Whether every file is still the one that was listed.
    pub fn is_unchanged(&self) -> bool {
        std::iter::once(&self.binary).chain(&self.libraries).all(|f| FileId::of(&f.source).is_ok_and(|id| id == f.id))
    }

    fn ask(binary: EngineFile) -> Result<Self, ProbeError> {
        let version = ask_version(&binary.source)?;
        if version < QemuVersion::OLDEST {
            return Err(ProbeError::TooOld { found: version });
        }
        let mut files = BTreeMap::new();
        add_libraries(&mut files, &binary.source)?;
        let module = MODULE_DIRS.iter().map(|d| Path::new(d).join(TCG_MODULE)).find(|p| p.exists());
        if let (Some(module), Some(loader)) = (module, loader_of(&binary.source)?) {
            list_libraries(&mut files, &loader, &module)?;
            add(&mut files, &module)?;
        }
        let dirs = ask_data_dirs(&binary.source)?;
        for name in FIRMWARE {
            let path = dirs.iter().map(|d| d.join(name)).find(|p| p.exists()).ok_or(ProbeError::FirmwareMissing { name })?;
            add(&mut files, &path)?;
        }
        // Only a library outside the loader's own directories needs the host's map of libraries.
        let outside = |f: &EngineFile| f.target.extension().is_some() && !is_in_known_dir(&f.target);
        if files.values().any(outside) {
            add(&mut files, Path::new("/etc/ld.so.cache"))?;
        }
        Ok(Self { binary, version, libraries: files.into_values().collect() })
    }
}

fn is_in_known_dir(path: &Path) -> bool {
    let known = |dir: &Path| LOADER_DIRS.iter().chain(&MODULE_DIRS).any(|d| Path::new(d) == dir);
    !path.to_string_lossy().contains(".so") || path.parent().is_some_and(known)
}

impl EngineFile {
    fn at(path: &Path) -> Result<Self, ProbeError> {
        let unreadable = |source| ProbeError::Unreadable { path: path.to_owned(), source };
        let source = path.canonicalize().map_err(unreadable)?;
        let id = FileId::of(&source).map_err(unreadable)?;
        Ok(Self { source, target: tidy(path), id })
    }
}

/// Takes `..` out of a path by its text (QEMU says `/usr/bin/../share/qemu`).
pub(super) fn tidy(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

impl FileId {
    /// Looks at the file.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let mtime = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Ok(Self { dev: meta.dev(), ino: meta.ino(), size: meta.size(), mtime })
    }
}

pub(super) fn read_cache(path: &Path) -> Option<Engine> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(CACHE_CAP).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn ask_version(binary: &Path) -> Result<QemuVersion, ProbeError> {
    let text = run(binary, &["--version"])?;
    parse_version(&text).ok_or_else(|| ProbeError::Answer { path: binary.to_owned(), wanted: "version" })
}

pub(super) fn parse_version(text: &str) -> Option<QemuVersion> {
    let rest = text.lines().next()?.strip_prefix("QEMU emulator version ")?;
    let mut numbers = rest.split(|c: char| !(c.is_ascii_digit() || c == '.')).next()?.split('.').map(str::parse);
    Some(QemuVersion {
        major: numbers.next()?.ok()?,
        minor: numbers.next()?.ok()?,
        micro: numbers.next().and_then(Result::ok).unwrap_or(0),
    })
}

fn ask_data_dirs(binary: &Path) -> Result<Vec<PathBuf>, ProbeError> {
    let text = run(binary, &["-L", "help"])?;
    let dirs: Vec<PathBuf> = text.lines().filter(|l| l.starts_with('/')).take(16).map(|l| tidy(Path::new(l))).collect();
    if dirs.is_empty() { Err(ProbeError::Answer { path: binary.to_owned(), wanted: "firmware directories" }) } else { Ok(dirs) }
}

fn loader_of(binary: &Path) -> Result<Option<PathBuf>, ProbeError> {
    elf::interpreter(binary).map_err(|source| ProbeError::Unreadable { path: binary.to_owned(), source })
}

fn add_libraries(files: &mut BTreeMap<PathBuf, EngineFile>, binary: &Path) -> Result<(), ProbeError> {
    let Some(loader) = loader_of(binary)? else { return Ok(()) };
    add(files, &loader)?;
    list_libraries(files, &loader, binary)
}

/// Adds what the loader says it would map for `object`; the loader runs no code of the object.
fn list_libraries(files: &mut BTreeMap<PathBuf, EngineFile>, loader: &Path, object: &Path) -> Result<(), ProbeError> {
    let text = run(loader, &["--list".as_ref(), object.as_os_str()])?;
    for line in text.lines().take(FILES_CAP) {
        match parse_listed(line) {
            Listed::File(path) => add(files, Path::new(path))?,
            Listed::Missing(library) => {
                return Err(ProbeError::LibraryMissing { path: object.to_owned(), library: library.to_owned() });
            }
            Listed::Nothing => {}
        }
    }
    Ok(())
}

pub(super) enum Listed<'a> {
    File(&'a str),
    Missing(&'a str),
    Nothing,
}

/// `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`.
pub(super) fn parse_listed(line: &str) -> Listed<'_> {
    let line = line.trim();
    if let Some(library) = line.strip_suffix("=> not found") {
        return Listed::Missing(library.trim());
    }
    let path = line.split_once("=> ").map_or(line, |(_, p)| p);
    let path = path.rsplit_once(" (0x").map_or(path, |(p, _)| p);
    if path.starts_with('/') { Listed::File(path) } else { Listed::Nothing }
}

fn add(files: &mut BTreeMap<PathBuf, EngineFile>, path: &Path) -> Result<(), ProbeError> {
    let file = EngineFile::at(path)?;
    files.insert(file.target.clone(), file);
    Ok(())
}

fn run<S: AsRef<std::ffi::OsStr>>(program: &Path, args: &[S]) -> Result<String, ProbeError> {
    let output = Tool::new(program).args(args).run_ok();
    output.map(|o| o.text()).map_err(|source| ProbeError::Ask { path: program.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(parse_version(debian), Some(QemuVersion { major: 7, minor: 2, micro: 22 }));
        assert_eq!(parse_version("QEMU emulator version 10.0.50-rc1"), Some(QemuVersion { major: 10, minor: 0, micro: 50 }));
        for bad in ["", "qemu", "QEMU emulator version x.y", "QEMU emulator version 999999.1"] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }

    #[test]
    fn loader_lines() {
        let file = |line| match parse_listed(line) {
            Listed::File(path) => path,
            Listed::Missing(_) | Listed::Nothing => "",
        };
        assert_eq!(file("\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f00)"), "/lib/x/libz.so.1");
        assert_eq!(file("\t/lib64/ld-linux-x86-64.so.2 (0x00007f00)"), "/lib64/ld-linux-x86-64.so.2");
        assert_eq!(file("\tlinux-vdso.so.1 (0x00007ffc)"), "");
        assert!(matches!(parse_listed("\tlibq.so.1 => not found"), Listed::Missing("libq.so.1")));
    }

    #[test]
    fn finds_qemu_and_all_it_needs_and_caches_it() {
        let cache = tempfile::tempdir().unwrap();
        let engine = Engine::find(None, cache.path()).expect("install qemu-system-x86");
        let has = |part: &str| engine.libraries.iter().any(|f| f.target.to_string_lossy().contains(part));
        for part in ["ld-linux", "libc.so.6", "libglib-2.0", "pvh.bin", "bios-microvm.bin", "accel-tcg"] {
            assert!(has(part), "{part} is not in {:#?}", engine.libraries);
        }
        assert!(engine.libraries.iter().all(|f| f.target.is_absolute() && !f.target.to_string_lossy().contains("..")));
        let start = Instant::now();
        assert_eq!(Engine::find(None, cache.path()).unwrap(), engine);
        assert!(start.elapsed() < Duration::from_millis(20), "the cached answer took {:?}", start.elapsed());
    }

    #[test]
    fn a_cache_that_no_longer_fits_is_not_used() {
        let cache = tempfile::tempdir().unwrap();
        let engine = Engine::find(None, cache.path()).expect("install qemu-system-x86");
        let mut stale = engine.clone();
        stale.libraries[0].id.mtime += 1;
        stale.version.micro += 1;
        let file = std::fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, serde_json::to_vec(&stale).unwrap()).unwrap();
        assert_eq!(Engine::find(None, cache.path()).unwrap(), engine);
    }
}
