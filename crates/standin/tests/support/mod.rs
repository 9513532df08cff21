//! A host to break out into, and a launcher to start things with.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The uid root gives the jailed program.
pub const JAIL_UID: u32 = 700_123;
/// The ordinary user.
pub const NOBODY: u32 = 65_534;

/// Who starts the hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Root,
    Nobody,
}

impl Caller {
    /// The uid the jailed program ends up with.
    pub fn jail_uid(self) -> u32 {
        match self {
            Self::Root => JAIL_UID,
            Self::Nobody => NOBODY,
        }
    }
}

/// Files for one hypervisor, in a directory of its own that everyone may enter.
pub struct Bench {
    pub dir: TempDir,
    pub caller: Caller,
    pub token: String,
    pub engine: Option<PathBuf>,
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub data_size: u64,
}

/// A running launcher and the hypervisor it reported.
pub struct Started {
    pub launcher: Child,
    pub report: Value,
    pub out: BufReader<ChildStdout>,
}

impl Bench {
    pub fn new(caller: Caller) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the jail's tests are run by root: they give uids away");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for (name, binary) in [("launcher", env!("CARGO_BIN_EXE_launcher")), ("standin", env!("CARGO_BIN_EXE_standin"))] {
            // By another process: a descriptor open for writing here would be inherited by whatever another
            // test starts at this moment, and the copy could not be executed.
            let copied = command(Path::new("/bin/cp")).arg(binary).arg(dir.path().join(name)).status().unwrap();
            assert!(copied.success());
        }
        let data_size = 8 << 20;
        for (name, size) in [("kernel", 4096), ("initramfs", 4096), ("root.img", 1 << 20), ("data.img", data_size)] {
            let path = dir.path().join(name);
            File::create(&path).unwrap().set_len(size).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        let cache = dir.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let owner = match caller {
            Caller::Root => 0,
            Caller::Nobody => NOBODY,
        };
        chown(&cache, Some(owner), Some(owner)).unwrap();
        let data = dir.path().join("data.img");
        chown(&data, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o600)).unwrap();
        Self {
            kernel: dir.path().join("kernel"),
            initramfs: dir.path().join("initramfs"),
            dir,
            caller,
            token: random_token(),
            engine: None,
            data_size,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same, with the stand-in where the hypervisor should be.
    pub fn with_standin(mut self) -> Self {
        self.engine = Some(self.path("standin"));
        self
    }

    fn setpriv(&self, args: &[&str]) -> std::process::Command {
        let mut setpriv = command(Path::new("/usr/bin/setpriv"));
        setpriv.args(args).arg(self.path("launcher"));
        setpriv
    }

    /// Starts the launcher; what it prints is read from `out`.
    pub fn spawn(&self, targets: Option<&standin::Targets>, then: &str) -> (Child, BufReader<ChildStdout>) {
        self.spawn_under(&[], targets, then)
    }

    /// The same as root with fewer rights, as arguments of `setpriv`.
    pub fn start_under(&self, rights: &[&str]) -> Started {
        let (launcher, mut out) = self.spawn_under(rights, None, "stay");
        let report = line(&mut out);
        Started { launcher, report, out }
    }

    fn spawn_under(&self, rights: &[&str], targets: Option<&standin::Targets>, then: &str) -> (Child, BufReader<ChildStdout>) {
        let job = json!({
            "engine": self.engine, "cache": self.path("cache"), "kernel": self.kernel, "initramfs": self.initramfs,
            "root": self.path("root.img"), "data": self.path("data.img"), "memory_mib": 64, "net": true, "token": self.token,
            "uid": match self.caller { Caller::Root => Some(JAIL_UID), Caller::Nobody => None },
            "targets": targets, "then": then,
        });
        let ordinary = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
        let mut command = match (self.caller, rights) {
            (Caller::Root, []) => command(&self.path("launcher")),
            (Caller::Root, rights) => self.setpriv(rights),
            (Caller::Nobody, _) => self.setpriv(&ordinary),
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Kept open: the launcher reads one line only.
        writeln!(child.stdin.as_mut().unwrap(), "{job}").unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        (child, out)
    }

    /// Starts the launcher and waits for what it says of the hypervisor.
    pub fn start(&self, targets: Option<&standin::Targets>, then: &str) -> Started {
        let (launcher, mut out) = self.spawn(targets, then);
        let report = line(&mut out);
        Started { launcher, report, out }
    }

    /// Pids of all live processes with this bench's token in their arguments.
    pub fn processes(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let has = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.split(|b| *b == 0).any(|a| a == self.token.as_bytes()));
            has && !status(*pid, "State").is_none_or(|s| s.starts_with('Z'))
        })
        .collect()
    }

    /// Waits until no hypervisor of this bench is left.
    pub fn gone_within(&self, patience: Duration) -> bool {
        poll(patience, || self.processes().is_empty())
    }
}

impl Started {
    /// The hypervisor's pid; panics with the launcher's words if there is none.
    pub fn pid(&self) -> u32 {
        let pid = self.report["pid"].as_u64().unwrap_or_else(|| panic!("not started: {}", self.report));
        u32::try_from(pid).unwrap()
    }

    /// Ends the launcher the hard way.
    pub fn kill(&mut self) {
        self.launcher.kill().unwrap();
        self.launcher.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }
}

/// One line of JSON.
pub fn line(out: &mut impl BufRead) -> Value {
    let mut text = String::new();
    out.read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}

/// A field of `/proc/PID/status`.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|l| Some(l.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// Asks again and again until the answer is yes or the time is over.
pub fn poll(patience: Duration, mut question: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if question() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn command(program: &Path) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "a child that has to be killed in the middle")]
    std::process::Command::new(program)
}

fn random_token() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}
