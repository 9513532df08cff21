//! Makes a jail, and starts a program in it.

use std::ffi::c_int;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::child::{self, FEWEST_FILES, REPORT, STATUS, landlock_abi};
use super::opens::Listener;
use super::order::Order;
use super::plan::{Pipes, Plan};
use super::step::Step;
use super::{inspect::Missing, landlock};

/// Setting up a jail is a few milliseconds of system calls.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who the program runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailIdentity {
    /// A user and group id of its own; for a caller that is root.
    Uid(u32),
    /// The caller's own ids, alone in a user namespace; for an ordinary user.
    Caller,
}

/// A file the program sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JailFile {
    /// The file on the host: absolute, no symlink in its path.
    pub source: PathBuf,
    /// Where the program finds it.
    pub target: PathBuf,
    /// Whether it is a program or a library (libraries are mapped executable, so their mount must allow it).
    pub executable: bool,
}

/// Resource limits, soft and hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One more than the highest descriptor; at least 84, for the child that becomes the program.
    pub open_files: u64,
    /// Threads of the program's uid; `None` where the uid is shared with others.
    pub threads: Option<u64>,
}

impl Limits {
    pub(super) fn table(&self) -> Vec<(u32, u64)> {
        let mut table = vec![
            (libc::RLIMIT_CORE, 0),
            (libc::RLIMIT_NOFILE, self.open_files),
            (libc::RLIMIT_MSGQUEUE, 0),
            (libc::RLIMIT_RTPRIO, 0),
            (libc::RLIMIT_NICE, 0),
        ];
        table.extend(self.threads.map(|n| (libc::RLIMIT_NPROC, n)));
        table
    }
}

/// What to start and what it sees.
#[derive(Debug)]
pub struct JailSpec {
    /// The program's path in the jail (one of `files`).
    pub program: PathBuf,
    /// All files it sees.
    pub files: Vec<JailFile>,
    /// All device nodes it sees, by their path on the host.
    pub devices: Vec<PathBuf>,
    /// Who it runs as.
    pub identity: JailIdentity,
    /// Supplementary groups; only for [`JailIdentity::Uid`].
    pub groups: Vec<u32>,
    /// Its limits.
    pub limits: Limits,
    /// Whether the kernel may give it two megabytes where it asks for a page.
    pub huge_pages: bool,
    /// Who answers when it opens a file to read and write.
    pub opens: Opens,
}

/// Who answers when the program opens a file to read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// The kernel, as always.
    Kernel,
    /// The caller, with a descriptor of its choice ([`Jailed::opens`]).
    Caller,
}

/// A started program.
#[derive(Debug)]
pub struct Jailed {
    /// Its pid as the caller sees it.
    pub pid: u32,
    /// A handle on it.
    pub pidfd: OwnedFd,
    /// The Landlock ABI of the domain it entered.
    pub landlock_abi: Option<u32>,
    /// What this host could not give.
    pub missing: Vec<Missing>,
    /// Where its opens wait for an answer; only with [`Opens::Caller`].
    pub opens: Option<Listener>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Another thread could hold a lock the child would need, or outlive the one that the child is tied to.
    #[error("a jail is started from a process of one thread, and this one has {threads}")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// Root would run it as root.
    #[error("a jailed program never runs as root: give it a uid of its own")]
    RootIdentity,
    /// Only root can give away a uid.
    #[error("only root can start a jailed program under the uid {uid}")]
    ForeignIdentity {
        /// The uid that was asked for.
        uid: u32,
    },
    /// The kernel makes no namespaces for this user.
    #[error("the kernel refuses namespaces to this user: {}", user_namespaces_hint(*user_namespace))]
    Namespaces {
        /// Whether a user namespace was among them.
        user_namespace: bool,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A path that is relative, not UTF-8 or has `..` in it.
    #[error("the path {} cannot be mounted into a jail", path.display())]
    PathNotPlain {
        /// Which.
        path: PathBuf,
    },
    /// A path with a NUL in it.
    #[error("a path contains a NUL byte")]
    NulByte,
    /// A number that the child needs for itself.
    #[error("a jailed program inherits descriptors below {STATUS} only, and may open {FEWEST_FILES} files at least")]
    DescriptorNumber,
    /// The child did not take its order.
    #[error("the jailed program cannot be told what to do")]
    Order(#[source] std::io::Error),
    /// A file the program could not open as the user it becomes.
    #[error("{} cannot be read by the jailed program", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
    },
    /// The Landlock rules could not be made.
    #[error("cannot make the landlock rules")]
    Landlock(#[from] ::landlock::RulesetError),
    /// The child failed.
    #[error("the jail could not {step}")]
    Child {
        /// At what.
        step: Step,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The child ended without saying why, or sent nonsense.
    #[error("the jail's child ended before it was ready")]
    ChildLost,
    /// The child did not get ready in time.
    #[error("the jail was not ready within {} s", PATIENCE.as_secs())]
    TimedOut,
    /// This process may not end the child, so neither could the kernel when this process dies.
    #[error("the jailed program cannot be tied to this process")]
    NoLifeline(#[source] std::io::Error),
    /// A system call of the parent failed.
    #[error("cannot {action}")]
    System {
        /// What it was for.
        action: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

fn user_namespaces_hint(user_namespace: bool) -> &'static str {
    if user_namespace {
        "allow unprivileged user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces, apparmor) or run smolvm as root"
    } else {
        "root lacks CAP_SYS_ADMIN here"
    }
}

fn on(action: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |errno| JailError::System { action, source: errno.into() }
}

/// A jail with a child of this process in it, which waits for its order and ends with this process, or when this is dropped.
pub struct Jail {
    child: Unfinished,
    pid: i32,
    status: File,
    opens: Option<UnixStream>,
    has_landlock: bool,
    missing: Vec<Missing>,
}

/// Makes a jail; what goes wrong in it is told when it is started.
///
/// Whoever is in it dies with the calling *thread*, so the caller is a process of one thread (refused
/// otherwise) that stays for as long as the program is wanted.
pub fn make(spec: &JailSpec) -> Result<Jail, JailError> {
    require_one_thread()?;
    let identity = judge_identity(spec.identity)?;
    if spec.limits.open_files < FEWEST_FILES {
        return Err(JailError::DescriptorNumber);
    }
    let (status_read, status_write) = pipe_with(PipeFlags::CLOEXEC).map_err(on("make a pipe"))?;
    let socket = || UnixStream::pair().map_err(|source| JailError::System { action: "make a socket", source });
    let (orders, orders_theirs) = socket()?;
    let landlock = landlock::ruleset(spec)?;
    let (opens, opens_theirs) = match spec.opens {
        Opens::Kernel => None,
        Opens::Caller => Some(socket()?),
    }
    .unzip();
    let pipes = Pipes {
        status: status_write.as_fd(),
        orders: orders_theirs.as_fd(),
        landlock: landlock.as_ref().map(AsFd::as_fd),
        opens: opens_theirs.as_ref().map(AsFd::as_fd),
    };
    let plan = Plan::new(spec, identity, &pipes)?;
    let mut missing = Vec::new();
    let (pid, pidfd) = clone(&plan, identity, &mut missing)?;
    // The child has copies; with these closed an end of file means that it ended, or executed.
    drop((status_write, orders_theirs, opens_theirs));
    if landlock.is_none() {
        missing.push(Missing::new("landlock", "this kernel does not offer it"));
    }
    if identity == JailIdentity::Caller {
        missing.push(Missing::new("supplementary groups", "an ordinary user cannot drop them; no file they open is visible in the jail"));
        missing.push(Missing::new("own uid", "an ordinary user cannot give it one; its ids are the caller's"));
    }
    let child = Unfinished { pidfd: Some(pidfd), orders: Some(orders) };
    Ok(Jail { child, pid, status: status_read.into(), opens, has_landlock: landlock.is_some(), missing })
}

impl Jail {
    /// Gives the child its order, and returns when it has executed the program.
    pub fn start(self, order: &Order<'_>) -> Result<Jailed, JailError> {
        let Self { mut child, pid, mut status, opens, has_landlock, missing } = self;
        if order.fds.iter().any(|(_, target)| !(0..STATUS).contains(target)) {
            return Err(JailError::DescriptorNumber);
        }
        let deadline = Instant::now() + PATIENCE;
        match read_report(&mut status, deadline)? {
            Some((Step::Armed, _)) => {}
            Some((step, errno)) => return Err(failed(step, errno)),
            None => return Err(JailError::ChildLost),
        }
        let received = opens.as_ref().map(|socket| Listener::receive(socket.as_fd())).transpose();
        let opens = received.map_err(|source| JailError::System { action: "take over the program's opens", source })?;
        // The same rule decides whether the kernel may deliver the signal that is sent when this process dies.
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            rustix::process::test_kill_process(pid).map_err(|errno| JailError::NoLifeline(errno.into()))?;
        }
        if let Some(orders) = child.orders.take() {
            order.send(&orders).map_err(JailError::Order)?;
        }
        if let Some((step, errno)) = read_report(&mut status, deadline)? {
            return Err(failed(step, errno));
        }
        let Some(pidfd) = child.pidfd.take() else { return Err(JailError::ChildLost) };
        let pid = u32::try_from(pid).map_err(|_| JailError::ChildLost)?;
        Ok(Jailed { pid, pidfd, landlock_abi: has_landlock.then(landlock_abi).flatten(), missing, opens })
    }
}

fn failed(step: Step, errno: i32) -> JailError {
    JailError::Child { step, source: std::io::Error::from_raw_os_error(errno) }
}

fn require_one_thread() -> Result<(), JailError> {
    let threads = std::fs::read_dir("/proc/self/task").map_err(|source| JailError::System { action: "count threads", source })?.count();
    if threads == 1 { Ok(()) } else { Err(JailError::Threads { threads }) }
}

/// Asking for one's own uid as an ordinary user is asking for [`JailIdentity::Caller`].
fn judge_identity(asked: JailIdentity) -> Result<JailIdentity, JailError> {
    let own = rustix::process::geteuid().as_raw();
    match asked {
        JailIdentity::Uid(0) => Err(JailError::RootIdentity),
        JailIdentity::Caller if own == 0 => Err(JailError::RootIdentity),
        JailIdentity::Uid(uid) if own == 0 => Ok(JailIdentity::Uid(uid)),
        JailIdentity::Uid(uid) if own != uid => Err(JailError::ForeignIdentity { uid }),
        JailIdentity::Uid(_) | JailIdentity::Caller => Ok(JailIdentity::Caller),
    }
}

fn clone(plan: &Plan, identity: JailIdentity, missing: &mut Vec<Missing>) -> Result<(i32, OwnedFd), JailError> {
    let user = identity == JailIdentity::Caller;
    let required = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
    let required = u64::from((required | if user { libc::CLONE_NEWUSER } else { 0 }).cast_unsigned());
    let cgroup = u64::from(libc::CLONE_NEWCGROUP.cast_unsigned());
    let refused = |errno| JailError::Namespaces { user_namespace: user, source: std::io::Error::from_raw_os_error(errno) };
    let (pid, raw) = match child::clone_into(required | cgroup, plan) {
        Err(libc::EINVAL) => {
            missing.push(Missing::new("cgroup namespace", "this kernel does not offer it"));
            child::clone_into(required, plan).map_err(refused)?
        }
        other => other.map_err(refused)?,
    };
    Ok((pid, adopt(raw)))
}

#[allow(unsafe_code, reason = "the kernel hands a new descriptor over as a number")]
fn adopt(raw: c_int) -> OwnedFd {
    // SAFETY: clone has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Reads one report; `None` at the end of file.
fn read_report(status: &mut File, deadline: Instant) -> Result<Option<(Step, i32)>, JailError> {
    let mut report = [0; REPORT];
    let mut filled = 0;
    while filled < REPORT {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&*status, PollFlags::IN)], Some(&time)) {
            Ok(0) => return Err(JailError::TimedOut),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(on("wait for the jail")(errno)),
        }
        match status.read(&mut report[filled..]).map_err(|source| JailError::System { action: "hear from the jail", source })? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(JailError::ChildLost),
            n => filled += n,
        }
    }
    let step = Step::from_byte(report[0]).ok_or(JailError::ChildLost)?;
    Ok(Some((step, i32::from_ne_bytes([report[1], report[2], report[3], report[4]]))))
}

/// A child that is killed and reaped unless it was taken out.
struct Unfinished {
    pidfd: Option<OwnedFd>,
    /// Where it gets what it waits for before it executes anything.
    orders: Option<UnixStream>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Without it the child ends by itself, also where this process may not kill it.
        self.orders = None;
        if let Some(pidfd) = &self.pidfd {
            let _ = crate::proc::kill::kill(pidfd);
            let _ = reap(pidfd);
        }
    }
}

/// Waits for the end of a child and takes its status.
pub fn reap(pidfd: &OwnedFd) -> std::io::Result<Option<WaitIdStatus>> {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}
