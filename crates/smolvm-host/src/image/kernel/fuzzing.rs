//! The kernel's own formats.

use std::path::Path;

use super::{BzImageError, ElfError, Lz4Error, ManifestError, bzimage, elf, lz4, manifest, modules, slim};

/// The kernel in a bzImage.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    bzimage::unpack(image)
}

/// The content of an LZ4 legacy frame.
pub fn lz4(frame: &[u8]) -> Result<Vec<u8>, Lz4Error> {
    lz4::unpack(frame)
}

/// Whether a kernel boots by PVH.
pub fn check_kernel(file: &[u8]) -> Result<(), ElfError> {
    elf::check_kernel(file)
}

/// What a module says of itself.
pub fn modinfo(file: &[u8]) -> Result<Vec<&str>, ElfError> {
    elf::modinfo(file)
}

/// Kind, name and length of each section of a module.
pub fn sections(file: &[u8]) -> Result<Vec<(u32, &[u8], usize)>, ElfError> {
    Ok(elf::sections(file)?.into_iter().map(|section| (section.kind, section.name, section.content.len())).collect())
}

/// A module without what no guest reads.
pub fn slimmed(module: &[u8]) -> Vec<u8> {
    slim::slim(module)
}

/// The module that a file of this name holds.
pub fn module_name(file: &str) -> Option<String> {
    modules::stem(file)
}

/// Reads a kernel's manifest: what would be written in its place, and its modules' files.
pub fn kernel_manifest(file: &Path) -> Result<(Vec<u8>, Vec<String>), ManifestError> {
    let body: super::KernelManifest = manifest::read(file)?;
    Ok((manifest::text(&body), body.modules.into_iter().map(|module| module.file).collect()))
}
