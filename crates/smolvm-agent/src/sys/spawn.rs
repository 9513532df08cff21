//! Starting a process the cheap way.
//!
//! ```text
//!   agent ── clone(CLONE_VM | CLONE_VFORK) ──► child: same memory, own small stack
//!     ┆ (suspended)                              setsid, dup2 0 1 2, ids, chdir, signals, execve
//!     ◄──────────────────────────────────────────┘ (or writes stage and errno, and ends)
//! ```
//!
//! `fork` would copy page tables and fault on every page both sides touch after it, which is the
//! dearest thing there is under emulation. This way nothing is copied, and the child reports its
//! failure through the shared memory instead of a pipe.
//!
//! Invariant: between clone and exec the child calls only system calls, allocates nothing, takes
//! no lock, and writes only to [`Shared::failure`] and its own stack.
#![allow(unsafe_code, reason = "clone, and what may run between it and exec, has no safe form")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::users::Ids;

/// The child needs far less; what it touches stays warm between spawns.
const STACK_BYTES: usize = 64 * 1024;

/// The soft limit of open files that programs expect; the agent's own is higher.
const CHILD_FILES: u64 = 1024;

/// Everything `execve` and the steps before it need.
pub(crate) struct Plan<'a> {
    /// Paths to try, in order.
    pub(crate) candidates: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: &'a CStr,
    /// None leaves the agent's own: root without further groups.
    pub(crate) ids: Option<&'a Ids>,
    /// Becomes 0, 1 and 2; nothing else is inherited.
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    pub(crate) role: Role,
}

/// What the process is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Command,
    /// The first of a namespace of processes: `/proc` is mounted anew, for it shows the namespace of whoever mounts it.
    First,
}

/// What the child was at when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Clone,
    SetUp,
    User,
    Cwd,
    Exec,
}

/// Why there is no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
}

/// Keeps the child's stack between spawns.
pub(crate) struct Spawner {
    stack: Vec<u128>,
}

/// What the child sees of its parent.
struct Shared {
    candidates: *const *const libc::c_char,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    cwd: *const libc::c_char,
    ids: *const Ids,
    stdio: [libc::c_int; 3],
    role: Role,
    failure: Option<(Stage, libc::c_int)>,
}

impl Spawner {
    /// Takes the stack, untouched as yet.
    pub(crate) fn new() -> Self {
        Self { stack: vec![0; STACK_BYTES / size_of::<u128>()] }
    }

    /// Starts the process; it leads a session and a process group of its own.
    pub(crate) fn spawn(&mut self, plan: &Plan<'_>) -> Result<Pid, Failure> {
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>();
        let (candidates, argv, env) = (pointers(plan.candidates), pointers(plan.argv), pointers(plan.env));
        let mut shared = Shared {
            candidates: candidates.as_ptr(),
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            cwd: plan.cwd.as_ptr(),
            ids: plan.ids.map_or(ptr::null(), ptr::from_ref),
            stdio: plan.stdio.map(|fd| fd.as_raw_fd()),
            role: plan.role,
            failure: None,
        };
        // SAFETY: the stack is ours, aligned to 16 and grows down from its end; CLONE_VFORK keeps this
        // thread, and with it `shared` and all it points to, where they are until the child has
        // called exec or ended; `child` keeps the invariant of this module.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr().add(self.stack.len());
            libc::clone(child, top.cast(), libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw mut shared).cast())
        };
        // SAFETY: the child wrote it, if at all, before this thread went on.
        let failure = unsafe { ptr::read_volatile(&raw const shared.failure) };
        let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN);
            return Err(Failure { stage: Stage::Clone, errno: Errno::from_raw_os_error(code) });
        };
        match failure {
            None => Ok(pid),
            Some((stage, code)) => {
                // It has ended already; without this it would show up later as a stranger's death.
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(Failure { stage, errno: Errno::from_raw_os_error(code) })
            }
        }
    }
}

/// From now on whatever is spawned lives in a new namespace of processes, in which the next one is pid 1. This process stays outside.
pub(crate) fn part_processes() -> Result<(), Errno> {
    // SAFETY: takes no pointers, and changes nothing of this process but where its children will be.
    match unsafe { libc::unshare(libc::CLONE_NEWPID) } {
        0 => Ok(()),
        // SAFETY: reads the error of the call above.
        _ => Err(Errno::from_raw_os_error(unsafe { errno() })),
    }
}

extern "C" fn child(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent passed a `Shared` and is suspended, so this is the only reference to it.
    let shared = unsafe { &mut *shared.cast::<Shared>() };
    // SAFETY: every pointer in `shared` is to a live, terminated array or string of the suspended parent.
    let (stage, errno) = unsafe { become_command(shared) };
    // SAFETY: volatile, so that the write is there for the other thread of control whatever the compiler thinks.
    unsafe { ptr::write_volatile(&raw mut shared.failure, Some((stage, errno))) };
    // SAFETY: ends this process only, runs nothing of the parent's.
    unsafe { libc::_exit(127) }
}

/// Returns only on failure: where, and errno.
unsafe fn become_command(shared: &Shared) -> (Stage, libc::c_int) {
    // SAFETY: as the caller says; every call below is a bare system call or a wrapper that is safe
    // between vfork and exec. The id calls go around glibc, which would signal "all threads" of the
    // process it shares memory with.
    unsafe {
        if libc::setsid() < 0 {
            return (Stage::SetUp, errno());
        }
        if shared.role == Role::First {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            if libc::mount(c"proc".as_ptr(), c"/proc".as_ptr(), c"proc".as_ptr(), flags, ptr::null()) < 0 {
                return (Stage::SetUp, errno());
            }
        }
        for (target, source) in (0..).zip(shared.stdio) {
            if libc::dup2(source, target) < 0 {
                return (Stage::SetUp, errno());
            }
        }
        let mut files: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) == 0 && files.rlim_cur > CHILD_FILES {
            files.rlim_cur = CHILD_FILES;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
        }
        if !shared.ids.is_null() {
            let ids = &*shared.ids;
            let failed = libc::syscall(libc::SYS_setgroups, ids.groups.len(), ids.groups.as_ptr()) < 0
                || libc::syscall(libc::SYS_setresgid, ids.gid, ids.gid, ids.gid) < 0
                || libc::syscall(libc::SYS_setresuid, ids.uid, ids.uid, ids.uid) < 0;
            if failed {
                return (Stage::User, errno());
            }
        }
        if libc::chdir(shared.cwd) < 0 {
            return (Stage::Cwd, errno());
        }
        // The agent ignores SIGPIPE and blocks what it reads from its descriptor; a command must find neither.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        (Stage::Exec, exec_first(shared))
    }
}

/// Tries each candidate as `execvp` does: a file that may not be run is remembered, the search goes on.
unsafe fn exec_first(shared: &Shared) -> libc::c_int {
    let mut worst = libc::ENOENT;
    let mut next = shared.candidates;
    // SAFETY: the array ends with a null pointer; strings are terminated; argv and env likewise.
    unsafe {
        let is_there = |path: *const libc::c_char| libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, path, libc::X_OK) == 0;
        // A look first: an execve that fails has built and torn down an address space. Not where there is nothing to choose from.
        let looks = !(*next).is_null() && !(*next.add(1)).is_null();
        while !(*next).is_null() {
            let code = if looks && !is_there(*next) {
                errno()
            } else {
                libc::execve(*next, shared.argv, shared.env);
                match errno() {
                    libc::ENOENT if looks || is_there(*next) => libc::ELIBACC,
                    // A directory passes the look and fails the call with EACCES.
                    code @ (libc::EACCES | libc::ENOENT | libc::ENOTDIR) => code,
                    code => return code,
                }
            };
            if code != libc::ENOENT && code != libc::ENOTDIR {
                worst = code;
            }
            next = next.add(1);
        }
    }
    worst
}

unsafe fn errno() -> libc::c_int {
    // SAFETY: the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() }
}
