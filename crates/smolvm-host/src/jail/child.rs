//! What happens between clone and exec.
//!
//! Everything here works on memory that was prepared before ([`Plan`]) and makes plain system calls:
//! the child of a raw clone has its parent's locks in whatever state they were, so it may not
//! allocate, print or unwind. Every failure is told as a step and an errno.

#![allow(unsafe_code, reason = "raw clone, and system calls on prepared C strings in a process that may not allocate")]

use std::ffi::c_int;
use std::ptr;

use super::plan::Plan;
use super::sys::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, check, check_long, errno,
    mount, mount_attr, move_mount, open_tree, write_file,
};

/// What the child was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Reported when everything is in place and only the program's start is left.
    Armed = 1,
    /// Map the caller's ids into the user namespace.
    MapIds,
    /// Cut the mount namespace off from the host's.
    PrivateMounts,
    /// Make and enter an empty root.
    NewRoot,
    /// Make a directory or an empty file to mount on.
    Skeleton,
    /// Bind a file of the host.
    BindFile,
    /// Bind a device node.
    BindDevice,
    /// Let go of the host's file system.
    DetachHost,
    /// Make everything read-only.
    Seal,
    /// Name the host.
    HostName,
    /// Put the descriptors at their numbers and close all others.
    Descriptors,
    /// Set resource limits.
    Limits,
    /// Leave all supplementary groups.
    Groups,
    /// Take the sandbox's user and group id.
    Ids,
    /// Give up capabilities, also those that a later program could get.
    Capabilities,
    /// Forbid new privileges.
    NoNewPrivileges,
    /// Enter the Landlock domain.
    Landlock,
    /// Ask the kernel to end this process with its parent.
    Lifeline,
    /// Wait for the parent's word.
    Go,
    /// Start the program.
    Exec,
}

impl Step {
    const ALL: [Self; 20] = [
        Self::Armed,
        Self::MapIds,
        Self::PrivateMounts,
        Self::NewRoot,
        Self::Skeleton,
        Self::BindFile,
        Self::BindDevice,
        Self::DetachHost,
        Self::Seal,
        Self::HostName,
        Self::Descriptors,
        Self::Limits,
        Self::Groups,
        Self::Ids,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Lifeline,
        Self::Go,
        Self::Exec,
    ];

    /// The step of that number.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u8 == byte)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Armed => "report readiness",
            Self::MapIds => "map the user into its namespace",
            Self::PrivateMounts => "make its mounts private",
            Self::NewRoot => "make its root",
            Self::Skeleton => "make its directories",
            Self::BindFile => "mount a file into it",
            Self::BindDevice => "mount a device into it",
            Self::DetachHost => "detach the host's files",
            Self::Seal => "make it read-only",
            Self::HostName => "name it",
            Self::Descriptors => "arrange its descriptors",
            Self::Limits => "set its limits",
            Self::Groups => "drop groups",
            Self::Ids => "change its user",
            Self::Capabilities => "drop capabilities",
            Self::NoNewPrivileges => "forbid new privileges",
            Self::Landlock => "enter its landlock domain",
            Self::Lifeline => "tie it to its monitor",
            Self::Go => "wait for its monitor",
            Self::Exec => "start the program",
        })
    }
}

/// A step that failed, with the kernel's reason.
type Outcome = Result<(), (Step, i32)>;

/// Bytes of one report on the status pipe: step, then errno in native order.
pub(super) const REPORT: usize = 5;
/// Descriptors are first copied to free numbers from here up, out of the way of their final ones.
const ASIDE: c_int = 100;
/// Where the child's own descriptors stand until they close at exec; what is handed over stands below.
pub(super) const STATUS: c_int = 10;
const GO: c_int = 11;
const LANDLOCK: c_int = 12;
const AFTER_KEPT: u32 = 13;

/// `clone(2)`: in the child this never returns.
///
/// Gives the child's pid and its pidfd.
pub(super) fn clone_into(flags: u64, plan: &Plan) -> Result<(i32, c_int), i32> {
    let mut pidfd: c_int = -1;
    // SAFETY: `clone_args` is plain data for which zero means "not used"; the kernel writes one int
    // to `pidfd`, which lives on this stack. Without CLONE_VM the child has its own copy of all
    // memory, and it only runs `child`, which never returns.
    let pid = unsafe {
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = flags | u64::from(libc::CLONE_PIDFD.cast_unsigned());
        args.pidfd = (&raw mut pidfd) as u64;
        args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
        let pid = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>());
        if pid == 0 {
            child(plan);
        }
        pid
    };
    if pid < 0 { Err(errno()) } else { i32::try_from(pid).map(|pid| (pid, pidfd)).map_err(|_| libc::EOVERFLOW) }
}

fn child(plan: &Plan) -> ! {
    if let Err((step, errno)) = enter(plan) {
        report(plan.status_fd_now(), step, errno);
    }
    // SAFETY: `_exit` runs no handlers and never returns.
    unsafe { libc::_exit(126) }
}

fn enter(plan: &Plan) -> Outcome {
    map_ids(plan)?;
    new_root(plan)?;
    host_name()?;
    descriptors(plan)?;
    plan.moved.set(true);
    limits(plan)?;
    identity(plan)?;
    signals();
    landlock(plan)?;
    lifeline()?;
    report(STATUS, Step::Armed, 0);
    wait_for_go()?;
    // SAFETY: program, argv and envp are null-terminated and live as long as the plan.
    unsafe { libc::execve(plan.program.as_ptr(), plan.argv_ptrs(), plan.env_ptrs()) };
    Err((Step::Exec, errno()))
}

/// Two hardenings that may be refused; and in a user namespace the caller's ids, mapped to themselves
/// and nothing else.
fn map_ids(plan: &Plan) -> Outcome {
    // Nothing of this process's memory may reach a core file's reader; pipe handlers ignore RLIMIT_CORE.
    let _ = write_file(c"/proc/self/coredump_filter", b"0");
    // In its pid namespace, no program can be run out of a file that has no path (Linux 6.3 and later).
    let _ = write_file(c"/proc/sys/vm/memfd_noexec", b"2");
    let Some(maps) = &plan.id_maps else { return Ok(()) };
    // SAFETY: takes plain numbers. /proc/self belongs to root in a process that is not dumpable.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    for (file, text) in [(c"/proc/self/setgroups", &b"deny"[..]), (c"/proc/self/uid_map", &maps.uid), (c"/proc/self/gid_map", &maps.gid)] {
        write_file(file, text).map_err(|e| (Step::MapIds, e))?;
    }
    Ok(())
}

fn new_root(plan: &Plan) -> Outcome {
    mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None).map_err(|e| (Step::PrivateMounts, e))?;
    // Any directory will do to make the new root on; /proc is there or nothing here works.
    let at = Step::NewRoot;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(c"jail", c"/proc", Some(c"tmpfs"), flags, Some(c"size=256k,nr_inodes=1024,mode=0555")).map_err(|e| (at, e))?;
    // SAFETY: system calls on constant C strings.
    unsafe {
        libc::umask(0o022);
        check(libc::chdir(c"/proc".as_ptr())).map_err(|e| (at, e))?;
        check(libc::mkdir(c"host".as_ptr(), 0o700)).map_err(|e| (at, e))?;
        check(libc::mkdir(c"jail".as_ptr(), 0o555)).map_err(|e| (at, e))?;
        check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c"host".as_ptr())).map_err(|e| (at, e))?;
        check(libc::chdir(c"/".as_ptr())).map_err(|e| (at, e))?;
    }
    skeleton(plan)?;
    for file in &plan.files {
        mount(&file.source, &file.target, None, libc::MS_BIND, None).map_err(|e| (Step::BindFile, e))?;
        if !file.executable {
            mount_attr(libc::AT_FDCWD, &file.target, 0, MOUNT_ATTR_NOEXEC).map_err(|e| (Step::BindFile, e))?;
        }
    }
    // Device nodes are taken hold of now and mounted after the seal, which would make them useless.
    for device in &plan.devices {
        let fd = open_tree(&device.source).map_err(|e| (Step::BindDevice, e))?;
        mount_attr(fd, c"", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC).map_err(|e| (Step::BindDevice, e))?;
        device.tree.set(fd);
    }
    // SAFETY: system calls on constant C strings.
    unsafe {
        check(libc::umount2(c"/host".as_ptr(), libc::MNT_DETACH)).map_err(|e| (Step::DetachHost, e))?;
        check(libc::rmdir(c"/host".as_ptr())).map_err(|e| (Step::DetachHost, e))?;
    }
    mount_attr(libc::AT_FDCWD, c"/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        .map_err(|e| (Step::Seal, e))?;
    for device in &plan.devices {
        move_mount(device.tree.get(), &device.target).map_err(|e| (Step::BindDevice, e))?;
    }
    // One directory down: the kernel makes no user namespace for a process whose root is not its
    // mount namespace's root, and leaving this one takes a capability it will not have.
    // SAFETY: system calls on constant C strings.
    unsafe {
        check(libc::chroot(c"/jail".as_ptr())).map_err(|e| (Step::Seal, e))?;
        check(libc::chdir(c"/".as_ptr())).map_err(|e| (Step::Seal, e))
    }
}

fn skeleton(plan: &Plan) -> Outcome {
    for dir in &plan.dirs {
        // SAFETY: a C string that lives as long as the plan.
        check(unsafe { libc::mkdir(dir.as_ptr(), 0o555) }).map_err(|e| (Step::Skeleton, e))?;
    }
    let targets = plan.files.iter().map(|f| &f.target).chain(plan.devices.iter().map(|d| &d.target));
    for target in targets {
        // SAFETY: as above; the descriptor is ours and closed at once.
        unsafe {
            let fd = libc::open(target.as_ptr(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC, 0o444);
            check(fd).map_err(|e| (Step::Skeleton, e))?;
            libc::close(fd);
        }
    }
    Ok(())
}

fn host_name() -> Outcome {
    let name = b"jail";
    // SAFETY: pointer and length of one constant.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map_err(|e| (Step::HostName, e))
}

fn descriptors(plan: &Plan) -> Outcome {
    let at = |e| (Step::Descriptors, e);
    let kept = [Some((plan.status, STATUS)), Some((plan.go, GO)), plan.landlock.map(|fd| (fd, LANDLOCK))];
    let moves = || plan.fds.iter().copied().chain(kept.iter().flatten().copied());
    // SAFETY: these calls take numbers only. First every descriptor is copied to a free number out of
    // the way, then from there to its place, so that no copy lands on one that is still needed; then
    // everything else is closed.
    unsafe {
        for ((fd, _), aside) in moves().zip(&plan.aside) {
            let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ASIDE);
            check(copy).map_err(at)?;
            aside.set(copy);
        }
        for ((_, target), aside) in moves().zip(&plan.aside) {
            let flags = if target < STATUS { 0 } else { libc::O_CLOEXEC };
            check(libc::dup3(aside.get(), target, flags)).map_err(at)?;
        }
        check_long(libc::syscall(libc::SYS_close_range, AFTER_KEPT, u32::MAX, 0)).map_err(at)?;
        // Between the last descriptor handed over and the pipes nothing may be left either.
        for fd in 0..STATUS {
            if !plan.fds.iter().any(|(_, target)| *target == fd) {
                libc::close(fd);
            }
        }
    }
    Ok(())
}

fn limits(plan: &Plan) -> Outcome {
    for (resource, value) in &plan.limits {
        let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
        // SAFETY: the struct lives on this stack for the call.
        check(unsafe { libc::setrlimit(*resource, &raw const limit) }).map_err(|e| (Step::Limits, e))?;
    }
    Ok(())
}

fn identity(plan: &Plan) -> Outcome {
    let at = |e| (Step::Capabilities, e);
    // SAFETY: all calls take numbers or the address of a value on this stack. The raw system calls
    // are used for the ids because the C library's wrappers talk to other threads, of which there are none.
    unsafe {
        // Beyond the kernel's last capability the answer is EINVAL.
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                match errno() {
                    libc::EINVAL => break,
                    errno => return Err(at(errno)),
                }
            }
        }
        if plan.id_maps.is_none() {
            check_long(libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr())).map_err(|e| (Step::Groups, e))?;
            check_long(libc::syscall(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid)).map_err(|e| (Step::Ids, e))?;
            check_long(libc::syscall(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid)).map_err(|e| (Step::Ids, e))?;
        }
        // Kernels without ambient capabilities have none to clear.
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        // struct __user_cap_header_struct, version 3; two words of effective, permitted, inheritable.
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0_u32; 6];
        check_long(libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr())).map_err(at)?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map_err(|e| (Step::NoNewPrivileges, e))?;
        check(libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0)).map_err(|e| (Step::NoNewPrivileges, e))?;
        libc::setsid();
        libc::umask(0o077);
    }
    Ok(())
}

/// Every signal as a fresh program expects it, but for the one that would end it when a file reaches
/// its size limit: it gets an error instead.
fn signals() {
    // SAFETY: takes numbers and the address of an empty set on this stack; signals that cannot be
    // changed refuse, which is as good.
    unsafe {
        for signal in 1..65 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

fn landlock(plan: &Plan) -> Outcome {
    if plan.landlock.is_none() {
        return Ok(());
    }
    // SAFETY: takes numbers only.
    check_long(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, LANDLOCK, 0) }).map_err(|e| (Step::Landlock, e))?;
    // SAFETY: ours, and not used again.
    unsafe { libc::close(LANDLOCK) };
    Ok(())
}

/// After the change of ids, which clears it.
fn lifeline() -> Outcome {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map_err(|e| (Step::Lifeline, e))
}

/// A parent that died before the lifeline was armed shows here: the pipe's only other end was its.
fn wait_for_go() -> Outcome {
    let mut byte = 0_u8;
    loop {
        // SAFETY: one byte into one byte on this stack.
        match unsafe { libc::read(GO, (&raw mut byte).cast(), 1) } {
            1 => return Ok(()),
            0 => return Err((Step::Go, libc::EPIPE)),
            _ if errno() == libc::EINTR => {}
            _ => return Err((Step::Go, errno())),
        }
    }
}

impl Plan {
    /// Where the status pipe is at this moment.
    fn status_fd_now(&self) -> c_int {
        if self.moved.get() { STATUS } else { self.status }
    }
}

fn report(fd: c_int, step: Step, errno: i32) {
    let mut bytes = [step as u8, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: pointer and length of one array on this stack. A parent that is gone needs no report.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}
