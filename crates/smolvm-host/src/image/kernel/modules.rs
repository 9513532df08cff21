//! Which kernel modules a guest needs, and in which order they load.
//!
//! The package has no `modules.dep` (a maintainer script makes that on installation, and we run none),
//! so dependencies are read where `depmod` reads them: in each module's `.modinfo`. `modules.builtin`
//! says what needs no module. Names come out of files and so may hold anything: only plain ones pass,
//! and only a file that the walk of the tree has met is ever opened.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::elf::{self, ElfError};
use crate::fsx::FsError;

/// When a module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// At once: what the guest needs to be talked to, and to see its disks.
    Base,
    /// While the host's first words are on their way: what the root file system needs.
    Root,
    /// When the sandbox has a network.
    Net,
}

/// One module, in load order within its group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Module {
    /// When it is loaded.
    pub group: Group,
    /// Its file's name, as in `virtio_blk.ko`.
    #[serde(deserialize_with = "file_name")]
    pub file: String,
}

/// A name that is read leads out of no directory and fits a line of the guest's list.
fn file_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    use serde::de::{Deserialize, Error};
    let file = String::deserialize(deserializer)?;
    let good = file.strip_suffix(".ko").and_then(plain).is_some();
    if good { Ok(file) } else { Err(D::Error::custom("not the name of a module's file")) }
}

/// Why the modules cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// Neither built in nor there.
    #[error("the kernel has no module `{name}`")]
    Missing {
        /// The module.
        name: String,
    },
    /// It is there, but packed.
    #[error("the kernel module `{name}` is packed ({suffix}), which is not supported")]
    Packed {
        /// The module.
        name: String,
        /// How: `xz`, `zst`, `gz`.
        suffix: String,
    },
    /// A dependency has a name no module has.
    #[error("the kernel module `{module}` depends on {name:?}, which is no module's name")]
    BadName {
        /// Who says so.
        module: String,
        /// The name.
        name: String,
    },
    /// Modules depend on each other in a ring.
    #[error("the kernel module `{name}` depends on itself")]
    Ring {
        /// One of the ring.
        name: String,
    },
    /// The chain of dependencies is longer than in any kernel.
    #[error("the kernel module `{name}` stands more than {DEPTH_CAP} dependencies deep")]
    TooDeep {
        /// The module.
        name: String,
    },
    /// It is longer than any module.
    #[error("the kernel module `{name}` is longer than {} MiB", MODULE_CAP >> 20)]
    TooLong {
        /// The module.
        name: String,
    },
    /// A module's file is not a module.
    #[error("the kernel module `{name}` cannot be read")]
    NotAModule {
        /// The module.
        name: String,
        /// What is wrong with it.
        source: ElfError,
    },
    /// There are more files than in any kernel.
    #[error("the kernel's modules are more than {FILES_CAP} files")]
    TooMany,
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What a guest needs by name; what those need comes along.
pub(super) const WANTED: [(Group, &[&str]); 3] = [
    // The console before the disks: its device goes on announcing the port while they are set up.
    (Group::Base, &["virtio", "virtio_ring", "virtio_mmio", "virtio_console", "virtio_blk"]),
    (Group::Root, &["ext4", "overlay"]),
    (Group::Net, &["failover", "net_failover", "virtio_net", "af_packet"]),
];

const MODULE_CAP: u64 = 16 << 20;
const DEPTH_CAP: usize = 32;
const FILES_CAP: usize = 20_000;
const BUILTIN_CAP: u64 = 4 << 20;
const SUFFIXES: [&str; 3] = ["xz", "zst", "gz"];

impl Group {
    /// As the agent reads it in `/modules/order`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Root => "root",
            Self::Net => "net",
        }
    }
}

/// A module and the file it was found in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) module: Module,
    pub(super) source: PathBuf,
}

/// The modules beneath `tree` (`lib/modules/<release>`) that `wanted` needs, in load order.
pub(super) fn select(tree: &Path, wanted: &[(Group, &[&str])]) -> Result<Vec<Found>, ModulesError> {
    let index = Index { builtin: builtin(tree)?, files: walk(tree)? };
    let mut chosen = Vec::new();
    let mut state = BTreeMap::new();
    for (group, names) in wanted {
        for name in *names {
            add(&index, *group, name, &mut state, &mut chosen)?;
        }
    }
    Ok(chosen)
}

struct Index {
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    Open,
    Done,
}

/// Adds a module after what it depends on.
fn add(index: &Index, group: Group, name: &str, state: &mut BTreeMap<String, Visit>, chosen: &mut Vec<Found>) -> Result<(), ModulesError> {
    match state.get(name) {
        Some(Visit::Done) => return Ok(()),
        Some(Visit::Open) => return Err(ModulesError::Ring { name: name.to_owned() }),
        None => {}
    }
    if state.values().filter(|visit| **visit == Visit::Open).count() >= DEPTH_CAP {
        return Err(ModulesError::TooDeep { name: name.to_owned() });
    }
    if index.builtin.contains(name) {
        return Ok(());
    }
    let path = index.files.get(name).ok_or_else(|| ModulesError::Missing { name: name.to_owned() })?;
    if let Some(suffix) = packed(path) {
        return Err(ModulesError::Packed { name: name.to_owned(), suffix: suffix.to_owned() });
    }
    state.insert(name.to_owned(), Visit::Open);
    for dependency in depends(name, path)? {
        add(index, group, &dependency, state, chosen)?;
    }
    state.insert(name.to_owned(), Visit::Done);
    chosen.push(Found { module: Module { group, file: format!("{name}.ko") }, source: path.clone() });
    Ok(())
}

fn depends(name: &str, path: &Path) -> Result<Vec<String>, ModulesError> {
    let file = std::fs::File::open(path).map_err(FsError::on("open", path))?;
    let mut bytes = Vec::new();
    file.take(MODULE_CAP + 1).read_to_end(&mut bytes).map_err(FsError::on("read", path))?;
    if bytes.len() as u64 > MODULE_CAP {
        return Err(ModulesError::TooLong { name: name.to_owned() });
    }
    let info = elf::modinfo(&bytes).map_err(|source| ModulesError::NotAModule { name: name.to_owned(), source })?;
    let list = info.iter().find_map(|item| item.strip_prefix("depends=")).unwrap_or_default();
    let mut names = Vec::new();
    for dependency in list.split(',').filter(|dependency| !dependency.is_empty()) {
        names.push(plain(dependency).ok_or_else(|| ModulesError::BadName { module: name.to_owned(), name: dependency.to_owned() })?);
    }
    Ok(names)
}

fn builtin(tree: &Path) -> Result<BTreeSet<String>, ModulesError> {
    let path = tree.join("modules.builtin");
    let mut text = String::new();
    match std::fs::File::open(&path).and_then(|file| file.take(BUILTIN_CAP).read_to_string(&mut text)) {
        Ok(_) => Ok(text.lines().filter_map(|line| stem(line.rsplit('/').next()?)).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(FsError::on("read", &path)(e).into()),
    }
}

/// Every module file by name; symlinks are not followed.
fn walk(tree: &Path) -> Result<BTreeMap<String, PathBuf>, ModulesError> {
    let mut found = BTreeMap::new();
    let mut seen = 0;
    let mut open = vec![tree.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).map_err(FsError::on("read", &directory))? {
            let entry = entry.map_err(FsError::on("read", &directory))?;
            seen += 1;
            if seen > FILES_CAP {
                return Err(ModulesError::TooMany);
            }
            let kind = entry.file_type().map_err(FsError::on("read", &directory))?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && let Some(name) = entry.file_name().to_str().and_then(stem)
            {
                found.insert(name, entry.path());
            }
        }
    }
    Ok(found)
}

/// `virtio-rng.ko` and `virtio_rng.ko.xz` are both `virtio_rng`.
pub(super) fn stem(file: &str) -> Option<String> {
    let file = SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix)?.strip_suffix('.')).unwrap_or(file);
    plain(file.strip_suffix(".ko")?)
}

fn packed(path: &Path) -> Option<&'static str> {
    let suffix = path.extension()?;
    SUFFIXES.into_iter().find(|known| suffix == *known)
}

fn plain(name: &str) -> Option<String> {
    let good = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    good.then(|| name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::super::elf::tests::module;
    use super::*;

    fn tree(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/drivers");
        std::fs::create_dir_all(&kernel).unwrap();
        for (file, depends) in modules {
            std::fs::write(kernel.join(file), module(format!("license=GPL\0depends={depends}\0").as_bytes())).unwrap();
        }
        std::fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
        dir
    }

    fn order(dir: &tempfile::TempDir, wanted: &[(Group, &[&str])]) -> Result<String, ModulesError> {
        let found = select(dir.path(), wanted)?;
        Ok(found.iter().map(|f| format!("{} {}", f.module.group.name(), f.module.file)).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let dir = tree(&[("a.ko", "b,c"), ("b.ko", "c"), ("c.ko", ""), ("d-e.ko", "a")], "kernel/x/builtin.ko\n");
        let wanted: [(Group, &[&str]); 2] = [(Group::Base, &["builtin", "b"]), (Group::Net, &["d_e"])];
        assert_eq!(order(&dir, &wanted).unwrap(), "base c.ko; base b.ko; net a.ko; net d_e.ko");
    }

    #[test]
    fn hostile_dependencies_are_refused() {
        let one = |modules: &[(&str, &str)]| order(&tree(modules, ""), &[(Group::Base, &["a"])]).unwrap_err();
        assert!(matches!(one(&[]), ModulesError::Missing { name } if name == "a"));
        assert!(matches!(one(&[("a.ko", "b")]), ModulesError::Missing { name } if name == "b"));
        assert!(matches!(one(&[("a.ko", "b"), ("b.ko", "a")]), ModulesError::Ring { .. }));
        assert!(matches!(one(&[("a.ko", "a")]), ModulesError::Ring { .. }));
        assert!(matches!(one(&[("a.ko", "../../etc/passwd")]), ModulesError::BadName { .. }));
        assert!(matches!(one(&[("a.ko", "b c\n")]), ModulesError::BadName { .. }));
        let names: Vec<(String, String)> =
            (0..40).map(|i| (if i == 0 { "a.ko".to_owned() } else { format!("m{i}.ko") }, format!("m{}", i + 1))).collect();
        let chain: Vec<(&str, &str)> = names.iter().map(|(file, next)| (file.as_str(), next.as_str())).collect();
        assert!(matches!(one(&chain), ModulesError::TooDeep { .. }));
        assert!(matches!(one(&[("a.ko.xz", "")]), ModulesError::Packed { suffix, .. } if suffix == "xz"));
    }

    #[test]
    fn files_that_are_no_modules_are_named() {
        let dir = tree(&[], "");
        std::fs::write(dir.path().join("a.ko"), "text").unwrap();
        assert!(matches!(order(&dir, &[(Group::Base, &["a"])]), Err(ModulesError::NotAModule { .. })));
        std::fs::File::create(dir.path().join("a.ko")).unwrap().set_len(MODULE_CAP + 1).unwrap();
        assert!(matches!(order(&dir, &[(Group::Base, &["a"])]), Err(ModulesError::TooLong { .. })));
        std::fs::remove_file(dir.path().join("a.ko")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("a.ko")).unwrap();
        assert!(matches!(order(&dir, &[(Group::Base, &["a"])]), Err(ModulesError::Missing { .. })));
    }

    #[test]
    fn a_recorded_module_names_a_file_of_its_directory() {
        let read = |file: &str| serde_json::from_value::<Module>(serde_json::json!({"group": "base", "file": file}));
        assert_eq!(read("virtio_blk.ko").unwrap().file, "virtio_blk.ko");
        for bad in ["", "virtio_blk", ".ko", "../virtio.ko", "/etc/shadow", "a/b.ko", "a b.ko", "a.ko\nnet b.ko", "a.ko.xz"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
