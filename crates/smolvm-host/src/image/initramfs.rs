//! The initramfs: the agent as `/init`, and the modules it loads before it can see a disk.
//!
//! ```text
//!   /init             the agent           /modules/order   `<group> <file.ko>`, in load order
//!   /modules/*.ko     uncompressed        /dev/console     for the kernel, before devtmpfs is there
//!   /proc /sys /dev /run /newroot         empty
//! ```
//! Addressed by the digest of its content; the manifest beside it says where the agent's bytes are, so
//! that a start can compare them with the embedded agent instead of hashing anything.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cpio::{Archive, TooLong};
use super::digest::Digest;
use super::error::ImageError;
use super::kernel::{Group, Kernel, slim};
use super::store::{point, publish_directory, require_space};
use super::workdir::Workdir;
use super::{layout, manifest};
use crate::fsx::{self, FsError};

/// Modules of a guest have 1 MB together.
const MODULE_CAP: u64 = 16 << 20;
const BUILD_WAIT: Duration = Duration::from_mins(1);
const SPACE_MIB: u64 = 16;
/// Raised when the same kernel and agent shall give another initramfs: 1, modules are slimmed.
const RECIPE: u32 = 1;

/// Why an initramfs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// The agent is no program for a guest.
    #[error("the guest agent is not an executable")]
    NotExecutable,
    /// A module is too long.
    #[error("the kernel module {} is too long", path.display())]
    ModuleTooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file is too long for the format.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// A published initramfs.
#[derive(Debug)]
pub(super) struct Initramfs {
    pub(super) path: PathBuf,
    pub(super) digest: Digest,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct InitramfsManifest {
    digest: Digest,
    size_bytes: u64,
    kernel: Digest,
    /// How modules become what is in it; absent in those of the first recipe.
    #[serde(default)]
    recipe: u32,
    /// The recipe of the kernel's modules.
    #[serde(default)]
    kernel_recipe: u32,
    agent_offset: u64,
    agent_size: u64,
}

/// The initramfs that `initramfs/current` points at, if it is for this kernel and agent.
pub(super) fn current(cache: &Path, kernel: &Kernel, agent: &[u8]) -> Option<Initramfs> {
    let directory = layout::initramfs(cache);
    let digest: Digest = manifest::read_line(&directory.join("current")).ok()?.parse().ok()?;
    let directory = directory.join(digest.hex());
    // Whatever is wrong with it, making it again is the answer.
    let manifest: InitramfsManifest = manifest::read(&directory.join("manifest.json")).ok()?;
    let path = directory.join("initramfs.cpio");
    let file = File::open(&path).ok()?;
    let fits = manifest.kernel == kernel.digest
        && (manifest.recipe, manifest.kernel_recipe) == (RECIPE, kernel.recipe)
        && manifest.agent_size == agent.len() as u64
        && file.metadata().ok()?.len() == manifest.size_bytes
        && holds(&file, manifest.agent_offset, agent);
    fits.then_some(Initramfs { path, digest })
}

/// Makes it and points `initramfs/current` at it.
pub(super) fn build(cache: &Path, kernel: &Kernel, agent: &[u8]) -> Result<Initramfs, ImageError> {
    let work = Workdir::new(cache, "initramfs", BUILD_WAIT)?;
    // Somebody else may have made it while we waited for the lock.
    if let Some(made) = current(cache, kernel, agent) {
        return Ok(made);
    }
    require_space(cache, SPACE_MIB)?;
    let mut modules = Vec::new();
    for module in &kernel.modules {
        let content = read_module(&kernel.modules_dir.join(&module.file))?;
        modules.push((module.group, module.file.as_str(), slim(super::signature::strip(&content))));
    }
    let (archive, agent_offset) = archive(agent, &modules)?;
    let digest = Digest::of(&[&archive]);
    let body = InitramfsManifest {
        digest: digest.clone(),
        size_bytes: archive.len() as u64,
        kernel: kernel.digest.clone(),
        recipe: RECIPE,
        kernel_recipe: kernel.recipe,
        agent_offset,
        agent_size: agent.len() as u64,
    };
    let out = work.path().join("out");
    std::fs::create_dir(&out).map_err(FsError::on("make the directory", &out))?;
    // A bind mount into a jail is read by another uid.
    std::fs::set_permissions(&out, PermissionsExt::from_mode(0o755)).map_err(FsError::on("open up", &out))?;
    fsx::write_atomic(&out.join("initramfs.cpio"), &archive, 0o444)?;
    fsx::write_atomic(&out.join("manifest.json"), &manifest::text(&body), 0o444)?;
    let directory = layout::initramfs(cache);
    publish_directory(&out, &directory, digest.hex())?;
    point(&directory, "current", &digest.to_string())?;
    Ok(Initramfs { path: directory.join(digest.hex()).join("initramfs.cpio"), digest })
}

/// The archive, and where in it the agent begins.
fn archive(agent: &[u8], modules: &[(Group, &str, Vec<u8>)]) -> Result<(Vec<u8>, u64), InitramfsError> {
    if !agent.starts_with(b"\x7fELF") {
        return Err(InitramfsError::NotExecutable);
    }
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "run", "newroot", "modules"] {
        archive.directory(directory, 0o755)?;
    }
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.device("dev/null", 0o666, 1, 3)?;
    let agent_offset = archive.file("init", 0o755, agent)?;
    let order: Vec<String> = modules.iter().map(|(group, file, _)| format!("{} {file}\n", group.name())).collect();
    archive.file("modules/order", 0o644, order.concat().as_bytes())?;
    for (_, file, content) in modules {
        archive.file(&format!("modules/{file}"), 0o644, content)?;
    }
    Ok((archive.finish()?, agent_offset))
}

fn read_module(path: &Path) -> Result<Vec<u8>, ImageError> {
    if std::fs::symlink_metadata(path).map_err(FsError::on("find", path))?.len() > MODULE_CAP {
        return Err(InitramfsError::ModuleTooLong { path: path.to_owned() }.into());
    }
    Ok(std::fs::read(path).map_err(FsError::on("read", path))?)
}

/// Whether `content` stands in the file at `offset`.
fn holds(file: &File, offset: u64, content: &[u8]) -> bool {
    let mut chunk = vec![0; 64 << 10];
    content.chunks(chunk.len()).zip(0_u64..).all(|(part, n)| {
        let at = n.checked_mul(64 << 10).and_then(|at| at.checked_add(offset));
        at.is_some_and(|at| file.read_exact_at(&mut chunk[..part.len()], at).is_ok()) && chunk[..part.len()] == *part
    })
}

#[cfg(test)]
mod tests {
    use super::super::cpio::tests::read_back;
    use super::*;

    #[test]
    fn the_archive_follows_the_guest_contract() {
        let modules = vec![(Group::Base, "virtio.ko", b"one".to_vec()), (Group::Net, "virtio_net.ko", b"two".to_vec())];
        let (bytes, at) = archive(b"\x7fELF agent", &modules).unwrap();
        assert_eq!(&bytes[usize::try_from(at).unwrap()..][..10], b"\x7fELF agent");
        let entries = read_back(&bytes);
        let find = |path: &str| entries.iter().find(|entry| entry.0 == path).unwrap_or_else(|| panic!("no {path}"));
        for directory in ["proc", "sys", "dev", "run", "newroot", "modules"] {
            assert_eq!(find(directory).1, 0o040_755);
        }
        assert_eq!((find("dev/console").1, find("dev/console").2), (0o020_600, (5, 1)));
        assert_eq!((find("dev/null").1, find("dev/null").2), (0o020_666, (1, 3)));
        assert_eq!(find("init").1, 0o100_755);
        assert_eq!(find("modules/order").3, b"base virtio.ko\nnet virtio_net.ko\n");
        assert_eq!(find("modules/virtio_net.ko").3, b"two");
        assert_eq!(archive(b"\x7fELF agent", &modules).unwrap().0, bytes, "two runs differ");
    }

    #[test]
    fn an_agent_that_is_no_program_is_refused() {
        assert!(matches!(archive(b"", &[]), Err(InitramfsError::NotExecutable)));
        assert!(matches!(archive(b"#!/bin/sh", &[]), Err(InitramfsError::NotExecutable)));
    }

    #[test]
    fn comparison_sees_every_byte() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(file.path(), [b"xx".as_slice(), &content].concat()).unwrap();
        let open = File::open(file.path()).unwrap();
        assert!(holds(&open, 2, &content));
        assert!(!holds(&open, 1, &content) && !holds(&open, 3, &content) && !holds(&open, u64::MAX, &content));
        let mut other = content.clone();
        other[199_999] ^= 1;
        assert!(!holds(&open, 2, &other));
    }
}
