//! What tools print and what lies in the cache.

use std::path::Path;

pub use super::apt::fuzzing as apt;
pub use super::kernel::fuzzing as kernel;
use super::{ManifestError, manifest, signature, store, template};

/// Reads a manifest of an image, and gives what would be written in its place.
pub fn image_manifest(file: &Path) -> Result<Vec<u8>, ManifestError> {
    manifest::read::<store::ImageManifest>(file).map(|body| manifest::text(&body))
}

/// The same for a manifest of a template.
pub fn template_manifest(file: &Path) -> Result<Vec<u8>, ManifestError> {
    manifest::read::<template::Manifest>(file).map(|body| manifest::text(&body))
}

/// A file of one line.
pub fn line(file: &Path) -> Result<String, ManifestError> {
    manifest::read_line(file)
}

/// A kernel module without its signature.
pub fn without_signature(module: &[u8]) -> &[u8] {
    signature::strip(module)
}

/// Blocks and inodes in what a tool counted.
pub fn counted(answer: &str) -> Option<(u64, u64)> {
    super::debian::parse_size(answer)
}
