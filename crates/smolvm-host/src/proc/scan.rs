//! Finds processes by the ownership mark in their argv.

use std::collections::{BTreeSet, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use smolvm_model::name::{InstallId, Mark};

use super::identity;

/// A process that carries a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// Its pid.
    pub pid: u32,
    /// Its start time in ticks.
    pub start_ticks: u64,
    /// The mark it carries.
    pub mark: Mark,
    /// Its words.
    pub argv: Vec<String>,
    /// Whether everything else about it fits too.
    pub proof: Proof,
}

/// How sure it is that a marked process is a hypervisor or a monitor of this installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Mark at its fixed place, the executable that belongs to its words, and bound to the sandbox's directory.
    Ours,
    /// The mark stands there, but something else about the process does not fit or cannot be read.
    Unknown,
}

/// The argv element that carries the mark: `argv[2]`, the value of `-name`.
pub const MARK_AT: usize = 2;

/// Lists every process that has a mark of `install` at its fixed place, of a sandbox that is `wanted`.
///
/// `is_program` judges the executable, by device and inode, of a process with these words; `holds` tells whether the process has
/// its root, working directory or an open file in the sandbox's directory.
pub fn marked(
    proc: &Path,
    install: &InstallId,
    wanted: impl Fn(&Mark) -> bool,
    is_program: impl Fn(&[String], (u64, u64)) -> bool,
    holds: impl Fn(&Path, &Mark) -> bool,
) -> std::io::Result<Vec<Marked>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let Some(pid) = entry.ok().and_then(|e| e.file_name().to_str().and_then(|n| n.parse::<u32>().ok())) else { continue };
        // A process that ends while it is looked at is no finding.
        let Ok(args) = identity::argv(proc, pid) else { continue };
        let Some(mark) = args.get(MARK_AT).and_then(|a| a.parse::<Mark>().ok()).filter(|m| m.install == *install && wanted(m)) else {
            continue;
        };
        let Ok(Some(seen)) = identity::look(proc, pid) else { continue };
        if seen.zombie {
            continue;
        }
        let dir = proc.join(pid.to_string());
        let exe = std::fs::metadata(dir.join("exe")).is_ok_and(|m| is_program(&args, (m.dev(), m.ino())));
        let proof = if exe && holds(&dir, &mark) { Proof::Ours } else { Proof::Unknown };
        found.push(Marked { pid, start_ticks: seen.start_ticks, mark, argv: args, proof });
    }
    Ok(found)
}

/// The pid of every process there is. One that lives from before this is called until after it is in it.
pub fn pids(proc: &Path) -> std::io::Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for entry in std::fs::read_dir(proc)? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(found)
}

/// The uids of `wanted` under which a process runs.
///
/// By the owner of its directory in `proc`: one look a process. That is its effective uid also where it may not be dumped, which
/// makes root the owner of the files in it, but not of the directory itself.
pub fn uids(proc: &Path, wanted: impl Fn(u32) -> bool) -> std::io::Result<BTreeSet<u32>> {
    let entries = std::fs::read_dir(proc)?.flatten().filter(|e| e.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    // One that ends meanwhile needs no uid any more.
    Ok(entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.uid()).filter(|uid| wanted(*uid)).collect())
}

/// At it or beneath it, also after it was unlinked, which the kernel says behind the name.
fn is_beneath(target: &Path, dir: &Path) -> bool {
    let unlinked = || target.to_str().and_then(|text| text.strip_suffix(" (deleted)")).is_some_and(|text| Path::new(text).starts_with(dir));
    target.starts_with(dir) || unlinked()
}

/// Whether a process has an open file at or beneath `dir`.
pub fn has_open_beneath(process: &Path, dir: &Path) -> bool {
    let Ok(fds) = std::fs::read_dir(process.join("fd")) else { return false };
    fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| is_beneath(&target, dir)))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts a process of its own, which hangs")]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Run as root, like all tests with processes of two users.
    #[test]
    fn a_process_that_hides_its_memory_does_not_hide_its_uid() {
        /// Nobody else's.
        const UID: u32 = 1_987_654_321;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let program = dir.path().join("cat");
        std::fs::copy("/bin/cat", &program).unwrap();
        // Who may not read its own program may not be dumped.
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o711)).unwrap();
        let mut child = Command::new(&program).stdin(Stdio::piped()).uid(UID).gid(UID).spawn().unwrap();
        let proc = Path::new("/proc");
        let owner = std::fs::metadata(proc.join(child.id().to_string()).join("status")).unwrap().uid();
        let found = uids(proc, |uid| uid == UID).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(owner, 0, "it may be dumped");
        assert_eq!(found, BTreeSet::from([UID]));
    }
}
