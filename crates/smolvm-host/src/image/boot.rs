//! What every start needs to find quickly: the kernel and the initramfs that goes with it.

use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::error::ImageError;
use super::{initramfs, kernel};
use crate::embed;

/// What a guest boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The ELF kernel.
    pub kernel: PathBuf,
    /// The archive with the agent.
    pub initramfs: PathBuf,
    /// As in `6.1.0-56-cloud-amd64`.
    pub kernel_release: String,
    /// Of kernel and initramfs together: changes when either does.
    pub digest: Digest,
}

/// The boot files for the embedded agent. A few small reads; the initramfs is made again when it holds
/// another agent.
pub fn boot_files(cache: &Path) -> Result<BootFiles, ImageError> {
    boot_files_with(cache, embed::agent())
}

/// The same for an agent that is given.
pub fn boot_files_with(cache: &Path, agent: &[u8]) -> Result<BootFiles, ImageError> {
    if agent.is_empty() {
        return Err(ImageError::NoAgent);
    }
    let kernel = kernel::current_kernel(cache)?;
    let initramfs = match initramfs::current(cache, &kernel, agent) {
        Some(initramfs) => initramfs,
        None => initramfs::build(cache, &kernel, agent)?,
    };
    let digest = Digest::of(&[kernel.digest.hex().as_bytes(), initramfs.digest.hex().as_bytes()]);
    Ok(BootFiles { kernel: kernel.vmlinux, initramfs: initramfs.path, kernel_release: kernel.release, digest })
}
