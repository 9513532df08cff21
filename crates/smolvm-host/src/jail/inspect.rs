//! Reads back from the kernel what holds for a running process.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::spawn::Opens;

/// The namespaces that are looked at, by their names in `/proc/PID/ns`.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// Those without which there is no jail.
const REQUIRED: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
/// `/proc` files are read up to here.
const CAP: u64 = 256 << 10;

/// What is enforced on a process, as the kernel tells it.
#[expect(clippy::struct_excessive_bools, reason = "each is one line of what users are shown, and none excludes another")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// Its user id (real, effective and saved are the same, or this could not be read).
    pub uid: u32,
    /// Its group id, likewise.
    pub gid: u32,
    /// Permitted, effective, inheritable, bounding and ambient sets are all empty.
    pub capabilities_empty: bool,
    /// It and its children can gain no privileges.
    pub no_new_privs: bool,
    /// A seccomp filter is on.
    pub seccomp: bool,
    /// The namespaces that are not the reader's.
    pub namespaces: Vec<String>,
    /// Every mount it sees is read-only.
    pub read_only: bool,
    /// Mounts it sees.
    pub mounts: u32,
    /// The Landlock ABI of its domain, as its launcher reported it: the kernel does not tell.
    pub landlock_abi: Option<u32>,
    /// Hard limit on core files in bytes; `None` is unlimited.
    pub core_limit: Option<u64>,
    /// Hard limit on a file's size in bytes.
    pub file_size_limit: Option<u64>,
    /// Hard limit on open files.
    pub open_files_limit: Option<u64>,
    /// Hard limit on the threads of its user.
    pub threads_limit: Option<u64>,
    /// What this host could not give, and why.
    pub missing: Vec<Missing>,
}

/// Something that is not enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why not, and what it means.
    pub why: String,
}

impl Missing {
    pub(super) fn new(what: &str, why: &str) -> Self {
        Self { what: what.to_owned(), why: why.to_owned() }
    }
}

/// Why the evidence could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file of `/proc`.
    #[error("cannot read {} of the hypervisor", file)]
    Unreadable {
        /// Which, relative to `/proc/PID`.
        file: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A line that should be there.
    #[error("{file} of the hypervisor has no {field} that can be understood")]
    Field {
        /// The file.
        file: &'static str,
        /// What was looked for.
        field: &'static str,
    },
}

/// A hard requirement that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// It runs as root.
    #[error("it runs as root")]
    Root,
    /// It has capabilities.
    #[error("it has capabilities")]
    Capabilities,
    /// It can gain privileges.
    #[error("it can gain privileges")]
    NewPrivileges,
    /// No seccomp filter.
    #[error("no seccomp filter is on")]
    Seccomp,
    /// A namespace is shared with the host.
    #[error("it shares the {namespace} namespace with the host")]
    Namespace {
        /// Which.
        namespace: &'static str,
    },
    /// It can write to a mounted file system.
    #[error("a file system it sees is writable")]
    Writable,
    /// It can leave core files.
    #[error("it can leave core files")]
    Core,
}

impl Enforced {
    /// The first hard requirement that does not hold.
    pub fn breach(&self) -> Option<Breach> {
        let missing = REQUIRED.into_iter().find(|n| !self.namespaces.iter().any(|have| have == n));
        [
            (self.uid == 0 || self.gid == 0, Breach::Root),
            (!self.capabilities_empty, Breach::Capabilities),
            (!self.no_new_privs, Breach::NewPrivileges),
            (!self.seccomp, Breach::Seccomp),
            (!self.read_only, Breach::Writable),
            (self.core_limit != Some(0), Breach::Core),
        ]
        .into_iter()
        .find_map(|(broken, breach)| broken.then_some(breach))
        .or(missing.map(|namespace| Breach::Namespace { namespace }))
    }
}

/// Reads what is enforced on a process, compared with the calling one.
///
/// A filter that only holds its opens protects from nothing, so it does not count.
pub fn read(proc: &Path, pid: u32, opens: Opens) -> Result<Enforced, InspectError> {
    let dir = proc.join(pid.to_string());
    let status = read_file(&dir, "status")?;
    let limits = read_file(&dir, "limits")?;
    let mounts = read_file(&dir, "mountinfo")?;
    let set = |field| hex(&status, field);
    let capabilities_empty =
        set("CapInh")? == 0 && set("CapPrm")? == 0 && set("CapEff")? == 0 && set("CapBnd")? == 0 && set("CapAmb").unwrap_or(0) == 0;
    let mut namespaces = Vec::new();
    for name in NAMESPACES {
        let of = |base: &Path| namespace(base, name);
        if of(&dir)? != of(&proc.join("self"))? {
            namespaces.push(name.to_owned());
        }
    }
    Ok(Enforced {
        uid: same_ids(&status, "Uid")?,
        gid: same_ids(&status, "Gid")?,
        capabilities_empty,
        no_new_privs: field(&status, "NoNewPrivs") == Some("1"),
        seccomp: field(&status, "Seccomp") == Some("2") && filters(&status) > uncounted(opens),
        namespaces,
        read_only: mounts.lines().all(is_read_only),
        mounts: u32::try_from(mounts.lines().count()).unwrap_or(u32::MAX),
        landlock_abi: None,
        core_limit: limit(&limits, "Max core file size")?,
        file_size_limit: limit(&limits, "Max file size")?,
        open_files_limit: limit(&limits, "Max open files")?,
        threads_limit: limit(&limits, "Max processes")?,
        missing: Vec::new(),
    })
}

fn read_file(dir: &Path, name: &str) -> Result<String, InspectError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(dir.join(name)).and_then(|f| f.take(CAP).read_to_end(&mut bytes));
    read.map_err(|source| InspectError::Unreadable { file: name.to_owned(), source })?;
    // The name of a process and the paths of its mounts need not be UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A namespace's identity. `pid_for_children` differs before a fork; `pid` is the process's own.
fn namespace(dir: &Path, name: &str) -> Result<Option<(u64, u64)>, InspectError> {
    match std::fs::metadata(dir.join("ns").join(name)) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        // A kernel without that kind has no file of that name, for nobody.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(InspectError::Unreadable { file: format!("ns/{name}"), source }),
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// How many seccomp filters are on; a kernel that does not count (before 5.9) has one if it has any.
fn filters(status: &str) -> u32 {
    field(status, "Seccomp_filters").map_or(1, |count| count.parse().unwrap_or(0))
}

fn uncounted(opens: Opens) -> u32 {
    match opens {
        Opens::Kernel => 0,
        Opens::Caller => 1,
    }
}

fn hex(status: &str, name: &'static str) -> Result<u64, InspectError> {
    field(status, name).and_then(|v| u64::from_str_radix(v, 16).ok()).ok_or(InspectError::Field { file: "status", field: name })
}

/// Real, effective, saved and file system id; if they differ there is no one answer.
fn same_ids(status: &str, name: &'static str) -> Result<u32, InspectError> {
    let bad = || InspectError::Field { file: "status", field: name };
    let ids = field(status, name).ok_or_else(bad)?.split_ascii_whitespace().map(str::parse::<u32>);
    match ids.collect::<Result<Vec<_>, _>>().as_deref() {
        Ok([id, others @ ..]) if others.len() == 3 && others.iter().all(|other| other == id) => Ok(*id),
        Ok(_) | Err(_) => Err(bad()),
    }
}

/// The sixth field of a mountinfo line is the mount's own options.
fn is_read_only(line: &str) -> bool {
    line.split(' ').nth(5).is_some_and(|options| options.split(',').any(|o| o == "ro"))
}

/// The hard limit in a line of `/proc/PID/limits`: name, soft, hard, unit, in columns.
fn limit(limits: &str, name: &'static str) -> Result<Option<u64>, InspectError> {
    let bad = || InspectError::Field { file: "limits", field: name };
    let hard = limits.lines().find_map(|l| l.strip_prefix(name)).and_then(|l| l.split_ascii_whitespace().nth(1)).ok_or_else(bad)?;
    if hard == "unlimited" { Ok(None) } else { hard.parse().map(Some).map_err(|_| bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_process_is_not_jailed() {
        let me = read(Path::new("/proc"), std::process::id(), Opens::Kernel).unwrap();
        assert!(me.namespaces.is_empty() && !me.read_only && me.mounts > 0);
        assert!(me.breach().is_some());
    }

    #[test]
    fn each_requirement_is_one() {
        let good = Enforced {
            uid: 1000,
            gid: 1000,
            capabilities_empty: true,
            no_new_privs: true,
            seccomp: true,
            namespaces: REQUIRED.map(str::to_owned).to_vec(),
            read_only: true,
            mounts: 60,
            landlock_abi: None,
            core_limit: Some(0),
            file_size_limit: Some(1),
            open_files_limit: Some(1),
            threads_limit: None,
            missing: Vec::new(),
        };
        assert_eq!(good.breach(), None);
        let broken = |change: fn(&mut Enforced)| {
            let mut e = good.clone();
            change(&mut e);
            e.breach()
        };
        assert_eq!(broken(|e| e.uid = 0), Some(Breach::Root));
        assert_eq!(broken(|e| e.gid = 0), Some(Breach::Root));
        assert_eq!(broken(|e| e.capabilities_empty = false), Some(Breach::Capabilities));
        assert_eq!(broken(|e| e.no_new_privs = false), Some(Breach::NewPrivileges));
        assert_eq!(broken(|e| e.seccomp = false), Some(Breach::Seccomp));
        assert_eq!(broken(|e| e.read_only = false), Some(Breach::Writable));
        assert_eq!(broken(|e| e.core_limit = None), Some(Breach::Core));
        assert_eq!(broken(|e| e.namespaces.retain(|n| n != "pid")), Some(Breach::Namespace { namespace: "pid" }));
    }

    #[test]
    fn lines_of_proc() {
        assert!(is_read_only("24 1 0:22 / /lib ro,nosuid - ext4 /dev/vda rw"));
        assert!(!is_read_only("24 1 0:22 / /lib rw,nosuid - ext4 /dev/vda ro"));
        let text = "Max file size             1048576              2097152              bytes     \n";
        assert_eq!(limit(text, "Max file size").unwrap(), Some(2_097_152));
        assert!(same_ids("Uid:\t1\t0\t1\t1\n", "Uid").is_err());
        assert!(same_ids("Uid:\t1\n", "Uid").is_err(), "one id says nothing about the others");
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("status"), b"Name:\t\xff\nUid:\t5\t5\t5\t5\n").unwrap();
        assert_eq!(same_ids(&read_file(dir.path(), "status").unwrap(), "Uid").unwrap(), 5);
    }
}
