//! What programs and files say about the hypervisor.

use std::path::{Path, PathBuf};

use super::accel::HostSpeed;
use super::probe::{Engine, Listed, QemuVersion};
use super::{accel, elf, probe};

/// The loader that a program asks for.
pub fn interpreter(file: &Path) -> std::io::Result<Option<PathBuf>> {
    elf::interpreter(file)
}

/// The version in what `--version` prints.
pub fn version(text: &str) -> Option<QemuVersion> {
    probe::parse_version(text)
}

/// The file in a line of the loader's list.
pub fn listed_file(line: &str) -> Option<&str> {
    match probe::parse_listed(line) {
        Listed::File(path) => Some(path),
        Listed::Missing(_) | Listed::Nothing => None,
    }
}

/// A path without `..`.
pub fn tidy(path: &Path) -> PathBuf {
    probe::tidy(path)
}

/// What was found out about the hypervisor earlier.
pub fn cached_engine(file: &Path) -> Option<Engine> {
    probe::read_cache(file)
}

/// What was measured earlier.
pub fn cached_speed(file: &Path) -> Option<HostSpeed> {
    accel::read_cache(file)
}
