//! Which installation this is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use smolvm_model::name::{InstallId, MacAddr, Mark};

/// Derives the installation's id from machine, user and the canonical path of its state directory.
///
/// So a state directory that was lost and made again owns its old marks, and no file has to be kept
/// for that. The directory need not exist yet: what exists of its path is made canonical.
pub fn identify(state: &Path) -> std::io::Result<InstallId> {
    let mut hash = Sha256::new();
    hash.update(b"smolvm-install-1\0");
    hash.update(machine_id());
    hash.update(b"\0");
    hash.update(rustix::process::getuid().as_raw().to_le_bytes());
    hash.update(canonical(state)?.as_os_str().as_bytes());
    Ok(InstallId::from_digest(hash.finalize().into()))
}

/// A machine id for a guest: the same at every start of the same sandbox, different for every sandbox,
/// shaped as systemd's `machine-id(5)` asks for (32 hex digits of a version 4 UUID).
pub fn machine_id_for(mark: &Mark) -> String {
    let digest: [u8; 32] = Sha256::digest(format!("smolvm-machine-id-1 {mark}")).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    smolvm_model::name::LaunchToken::from_random(bytes).as_str().replace('-', "")
}

/// An Ethernet address for a guest whose network is its own, so that nothing has to be reserved for it.
pub fn mac_for(mark: &Mark) -> MacAddr {
    let digest: [u8; 32] = Sha256::digest(format!("smolvm-mac-1 {mark}")).into();
    MacAddr::local([digest[0], digest[1], digest[2], digest[3], digest[4]])
}

fn machine_id() -> Vec<u8> {
    // A machine without an id (a minimal container) is told apart by user and path alone.
    std::fs::read("/etc/machine-id").unwrap_or_default()
}

fn canonical(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut present = absolute.as_path();
    loop {
        match std::fs::canonicalize(present) {
            Ok(real) => return Ok(missing.into_iter().rev().fold(real, |p: PathBuf, name| p.join(name))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => match (present.parent(), present.file_name()) {
                (Some(parent), Some(name)) => {
                    missing.push(name.to_owned());
                    present = parent;
                }
                _ => return Err(e),
            },
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_is_the_same_installation_made_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("home/state");
        let before = identify(&state).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        assert_eq!(identify(&state).unwrap(), before);
        std::os::unix::fs::symlink(&state, dir.path().join("link")).unwrap();
        assert_eq!(identify(&dir.path().join("link")).unwrap(), before);
        assert_ne!(identify(dir.path()).unwrap(), before);
    }
}
