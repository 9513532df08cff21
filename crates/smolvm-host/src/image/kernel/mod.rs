//! The guest kernel: Debian's cloud kernel, taken out of its package without installing it.
//!
//! ```text
//!   linux-image-cloud-amd64 ──► linux-image-<release>-cloud-amd64.deb
//!        boot/vmlinuz-<release> ──(bzimage, lz4)──► vmlinux ──(elf: PVH?)──┐
//!        lib/modules/<release>/ ──(modules)──► *.ko in load order ─────────┴─► kernels/<release>-<digest>/
//! ```

mod bzimage;
mod elf;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod lz4;
mod modules;
mod slim;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use bzimage::{BzImageError, PayloadFormat};
pub use elf::ElfError;
pub use lz4::Lz4Error;
pub use modules::{Group, Module, ModulesError};
pub(super) use slim::slim;

use super::apt::{self, Apt};
use super::build::Renew;
use super::digest::Digest;
use super::error::ImageError;
use super::layout;
use super::manifest::{self, ManifestError};
use super::progress::{Report, tell};
use super::store::{point, publish_directory, require_space, unix_now};
use super::workdir::Workdir;
use crate::fsx::{self, FsError};

const METAPACKAGE: &str = "linux-image-cloud-amd64";
const STEP: &str = "kernel";
/// Raised when other modules, or others first, are wanted of the same kernel: 1, the console before the disks.
const RECIPE: u32 = 1;
/// A bzImage has 14 MB.
const BZIMAGE_CAP: u64 = 128 << 20;
/// Package, unpacked tree and result together.
const SPACE_MIB: u64 = 400;
const BUILD_WAIT: Duration = Duration::from_mins(10);

/// Why a kernel could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The metapackage leads to something that is no kernel.
    #[error("the package `{package}` is not a cloud kernel's")]
    UnexpectedPackage {
        /// The package's name.
        package: String,
    },
    /// The file is too long for a kernel.
    #[error("{} is too long for a kernel", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The kernel cannot be taken out of its file.
    #[error("the kernel {release} cannot be unpacked")]
    BzImage {
        /// Which kernel.
        release: String,
        /// Why not.
        source: BzImageError,
    },
    /// What was unpacked does not boot.
    #[error("the kernel {release} cannot be booted directly")]
    Elf {
        /// Which kernel.
        release: String,
        /// Why not.
        source: ElfError,
    },
    /// Its modules cannot be put together.
    #[error(transparent)]
    Modules(#[from] ModulesError),
}

/// A prepared kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// As in `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The ELF kernel.
    pub vmlinux: PathBuf,
    /// Where its modules are.
    pub modules_dir: PathBuf,
    /// Its modules, in load order.
    pub modules: Vec<Module>,
    /// Of the ELF kernel.
    pub digest: Digest,
    /// When it was prepared.
    pub created_unix: u64,
    /// How its modules were chosen and ordered.
    pub recipe: u32,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct KernelManifest {
    release: String,
    digest: Digest,
    size_bytes: u64,
    modules: Vec<Module>,
    created_unix: u64,
    /// Absent in those of the first recipe.
    #[serde(default)]
    recipe: u32,
}

/// Prepares the kernel and points `kernels/current` at it; one that is there is kept unless it shall be renewed.
pub fn prepare_kernel(cache: &Path, renew: Renew, report: Report<'_>) -> Result<Kernel, ImageError> {
    if renew == Renew::IfMissing
        && let Some(kernel) = intact(cache)?
    {
        return Ok(kernel);
    }
    let work = Workdir::new(cache, "kernel", BUILD_WAIT)?;
    // Somebody else may have made it while we waited for the lock.
    if renew == Renew::IfMissing
        && let Some(kernel) = intact(cache)?
    {
        return Ok(kernel);
    }
    require_space(cache, SPACE_MIB)?;
    tell(report, STEP, "finding the newest cloud kernel", 0.0);
    let apt = Apt::open(cache, report)?;
    let package = apt.only_dependency(METAPACKAGE)?;
    let release = package
        .strip_prefix("linux-image-")
        .filter(|release| release.ends_with("-cloud-amd64"))
        .ok_or_else(|| KernelError::UnexpectedPackage { package: package.clone() })?;
    tell(report, STEP, format!("downloading {package}"), 0.1);
    let download = apt.download(&package, &work.path(), report)?;
    drop(apt);
    tell(report, STEP, format!("unpacking {release}"), 0.5);
    let tree = work.path().join("tree");
    fsx::create_private_dir(&tree)?;
    apt::unpack(&download, &tree)?;
    let out = work.path().join("out");
    let manifest = assemble(release, &tree, &out)?;
    tell(report, STEP, format!("publishing {release}"), 0.9);
    let name = format!("{release}-{}", manifest.digest.short());
    let kernels = layout::kernels(cache);
    publish_directory(&out, &kernels, &name)?;
    point(&kernels, "current", &name)?;
    tell(report, STEP, format!("{release} is ready"), 1.0);
    current_kernel(cache)
}

/// The prepared kernel; reads two small files.
pub fn current_kernel(cache: &Path) -> Result<Kernel, ImageError> {
    let kernels = layout::kernels(cache);
    let name = match manifest::read_line(&kernels.join("current")) {
        Ok(name) if is_plain(&name) => name,
        Ok(_) => return Err(ImageError::NoKernel),
        Err(error) if error.is_absent() => return Err(ImageError::NoKernel),
        Err(error) => return Err(error.into()),
    };
    let directory = kernels.join(&name);
    let read: Result<KernelManifest, ManifestError> = manifest::read(&directory.join("manifest.json"));
    let manifest = match read {
        Ok(manifest) => manifest,
        Err(error) if error.is_absent() => return Err(ImageError::NoKernel),
        Err(error) => return Err(error.into()),
    };
    let vmlinux = directory.join("vmlinux");
    if std::fs::metadata(&vmlinux).map_or(0, |metadata| metadata.len()) != manifest.size_bytes {
        return Err(ImageError::WrongSize { path: vmlinux, expected: manifest.size_bytes });
    }
    let KernelManifest { release, digest, modules, created_unix, recipe, .. } = manifest;
    Ok(Kernel { release, vmlinux, modules_dir: directory.join("modules"), modules, digest, created_unix, recipe })
}

/// Reads the whole kernel and compares its digest.
pub(super) fn verify(kernel: &Kernel) -> Result<(), ImageError> {
    let actual = Digest::of_file(&kernel.vmlinux).map_err(FsError::on("read", &kernel.vmlinux))?;
    if actual == kernel.digest {
        Ok(())
    } else {
        Err(ImageError::Damaged { path: kernel.vmlinux.clone(), expected: kernel.digest.clone(), actual })
    }
}

/// The kernel if nothing is wrong with it; what is damaged counts as missing, so that `setup` mends it.
fn intact(cache: &Path) -> Result<Option<Kernel>, ImageError> {
    match current_kernel(cache).and_then(|kernel| verify(&kernel).map(|()| kernel)) {
        // One of another recipe boots, and is made anew by whoever prepares kernels.
        Ok(kernel) if kernel.recipe != RECIPE => Ok(None),
        Ok(kernel) => Ok(Some(kernel)),
        Err(error @ ImageError::Manifest(ManifestError::Newer { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Fills `out` with what is kept of an unpacked package.
fn assemble(release: &str, tree: &Path, out: &Path) -> Result<KernelManifest, ImageError> {
    let packed = tree.join(format!("boot/vmlinuz-{release}"));
    if std::fs::symlink_metadata(&packed).map_err(FsError::on("find", &packed))?.len() > BZIMAGE_CAP {
        return Err(KernelError::TooLong { path: packed }.into());
    }
    let image = std::fs::read(&packed).map_err(FsError::on("read", &packed))?;
    let vmlinux = bzimage::unpack(&image).map_err(|source| KernelError::BzImage { release: release.to_owned(), source })?;
    elf::check_kernel(&vmlinux).map_err(|source| KernelError::Elf { release: release.to_owned(), source })?;
    let found = modules::select(&tree.join(format!("lib/modules/{release}")), &modules::WANTED).map_err(KernelError::from)?;
    for directory in [out, &out.join("modules")] {
        std::fs::create_dir(directory).map_err(FsError::on("make the directory", directory))?;
        // A bind mount into a jail is read by another uid.
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).map_err(FsError::on("open up", directory))?;
    }
    fsx::write_atomic(&out.join("vmlinux"), &vmlinux, 0o444)?;
    let mut modules = Vec::new();
    for module in found {
        let bytes = std::fs::read(&module.source).map_err(FsError::on("read", &module.source))?;
        fsx::write_atomic(&out.join("modules").join(&module.module.file), &bytes, 0o444)?;
        modules.push(module.module);
    }
    let manifest = KernelManifest {
        release: release.to_owned(),
        digest: Digest::of(&[&vmlinux]),
        size_bytes: vmlinux.len() as u64,
        modules,
        created_unix: unix_now(),
        recipe: RECIPE,
    };
    fsx::write_atomic(&out.join("manifest.json"), &manifest::text(&manifest), 0o444)?;
    Ok(manifest)
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'+' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(vmlinuz: &[u8]) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("boot")).unwrap();
        std::fs::write(tree.path().join("boot/vmlinuz-r"), vmlinuz).unwrap();
        let modules = tree.path().join("lib/modules/r");
        std::fs::create_dir_all(&modules).unwrap();
        std::fs::write(modules.join("modules.builtin"), "x/ext4.ko\nx/overlay.ko\nx/af_packet.ko\n").unwrap();
        for name in ["virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "virtio_console", "failover", "net_failover", "virtio_net"] {
            std::fs::write(modules.join(format!("{name}.ko")), elf::tests::module(b"depends=\0")).unwrap();
        }
        tree
    }

    fn pvh_kernel() -> Vec<u8> {
        elf::tests::kernel(b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0\0\0\0\x01")
    }

    #[test]
    fn a_package_becomes_a_kernel() {
        let tree = package(&bzimage::tests::image(&pvh_kernel()));
        let out = tree.path().join("out");
        let manifest = assemble("r", tree.path(), &out).unwrap();
        assert_eq!(manifest.modules.len(), 8);
        assert_eq!(manifest.digest, Digest::of_file(&out.join("vmlinux")).unwrap());
        assert_eq!(std::fs::metadata(out.join("vmlinux")).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn what_does_not_boot_is_refused() {
        let check = |vmlinuz: &[u8]| assemble("r", package(vmlinuz).path(), Path::new("/nonexistent")).err().unwrap();
        assert!(matches!(check(b"junk"), ImageError::Kernel(KernelError::BzImage { .. })));
        let plain = elf::tests::kernel(b"");
        assert!(matches!(check(&bzimage::tests::image(&plain)), ImageError::Kernel(KernelError::Elf { source: ElfError::NoPvh, .. })));
        let zstd = bzimage::tests::image(b"\x28\xb5\x2f\xfd");
        assert!(matches!(check(&zstd), ImageError::Kernel(KernelError::BzImage { source: BzImageError::Unsupported { .. }, .. })));
    }

    #[test]
    fn pointers_that_lead_elsewhere_are_no_kernel() {
        let cache = tempfile::tempdir().unwrap();
        assert!(matches!(current_kernel(cache.path()), Err(ImageError::NoKernel)));
        std::fs::create_dir(cache.path().join("kernels")).unwrap();
        for bad in ["", "..", "../..", "/etc", "a/b", "gone"] {
            std::fs::write(cache.path().join("kernels/current"), bad).unwrap();
            assert!(matches!(current_kernel(cache.path()), Err(ImageError::NoKernel)), "{bad:?}");
        }
    }
}
