//! What happens between clone and exec.
//!
//! Everything here works on memory that was prepared before ([`Plan`]) and makes plain system calls:
//! the child of a raw clone has its parent's locks in whatever state they were, so it may not
//! allocate, print or unwind. Every failure is told as a step and an errno.

#![allow(unsafe_code, reason = "raw clone, and system calls on prepared C strings in a process that may not allocate")]

use std::ffi::{CStr, c_char, c_int, c_long};
use std::ptr;

use super::opens;
use super::order::{self, Taken};
use super::plan::Plan;
use super::step::Step;

/// A step that failed, with the kernel's reason.
type Outcome = Result<(), (Step, i32)>;

/// Bytes of one report on the status pipe: step, then errno in native order.
pub(super) const REPORT: usize = 5;
/// Where the child's own descriptors stand until they close at exec; what is handed over stands below.
pub(super) const STATUS: c_int = 40;
const ORDERS: c_int = 41;
const LANDLOCK: c_int = 42;
const OPENS: c_int = 43;
/// Descriptors are first copied to free numbers from here up, out of the way of their final ones.
const ASIDE: c_int = 44;
/// So many files the child has to be allowed.
pub(super) const FEWEST_FILES: u64 = 44 + order::MOST_FDS as u64;

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
    keep(plan)?;
    plan.moved.set(true);
    new_root(plan)?;
    host_name()?;
    limits(plan)?;
    identity(plan)?;
    signals();
    landlock(plan)?;
    lifeline()?;
    hold_opens(plan)?;
    report(STATUS, Step::Armed, 0);
    // A parent that died before the lifeline was armed shows here: the socket's only other end was its.
    let order = order::take(ORDERS, &plan.text, &plan.argv).map_err(|e| (Step::Order, e))?;
    descriptors(&order)?;
    limit(libc::RLIMIT_FSIZE, order.file_size)?;
    // SAFETY: program, argv and envp are null-terminated and live as long as the plan; a `Cell` is the pointer in it.
    unsafe { libc::execve(plan.program.as_ptr(), plan.argv.as_ptr().cast(), plan.envp.as_ptr()) };
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

/// The child has what it needs until it gets its order, and nothing else of its parent's.
fn keep(plan: &Plan) -> Outcome {
    let kept = [
        Some((plan.status, STATUS)),
        Some((plan.orders, ORDERS)),
        plan.landlock.map(|fd| (fd, LANDLOCK)),
        plan.opens.map(|fd| (fd, OPENS)),
    ];
    let mut aside = [(-1, -1); 4];
    for (place, (fd, target)) in aside.iter_mut().zip(kept.into_iter().flatten()) {
        *place = (copy_aside(fd)?, target);
    }
    for (copy, target) in aside.into_iter().filter(|(copy, _)| *copy >= 0) {
        put(copy, target, libc::O_CLOEXEC)?;
    }
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, 0, STATUS - 1, 0) };
    close_from(ASIDE)
}

/// Puts what came with the order at its numbers, and closes everything else but what closes by itself.
fn descriptors(order: &Taken) -> Outcome {
    let came = &order.fds[..order.count];
    let mut aside = [-1; order::MOST_FDS];
    for (place, (fd, _)) in aside.iter_mut().zip(came) {
        *place = copy_aside(*fd)?;
    }
    for (copy, (_, target)) in aside.into_iter().zip(came) {
        put(copy, *target, 0)?;
    }
    close_from(ASIDE)?;
    for fd in (0..STATUS).filter(|fd| !came.iter().any(|(_, target)| target == fd)) {
        // SAFETY: takes a number. One that is not open does no harm.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// A copy out of the way, so that none lands on one that is still needed.
fn copy_aside(fd: c_int) -> Result<c_int, (Step, i32)> {
    // SAFETY: takes numbers only.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ASIDE) };
    check(copy).map(|()| copy).map_err(|e| (Step::Descriptors, e))
}

fn put(copy: c_int, target: c_int, flags: c_int) -> Outcome {
    // SAFETY: takes numbers only.
    check(unsafe { libc::dup3(copy, target, flags) }).map_err(|e| (Step::Descriptors, e))
}

fn close_from(first: c_int) -> Outcome {
    // SAFETY: takes numbers only.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) }).map_err(|e| (Step::Descriptors, e))
}

fn limits(plan: &Plan) -> Outcome {
    for (resource, value) in &plan.limits {
        limit(*resource, *value)?;
    }
    // The length of its files comes with the order, when the child may raise nothing any more.
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the struct lives on this stack for the call. Who may not raise it had none that is too low, or hears of it then.
    unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const all) };
    if !plan.huge_pages {
        // SAFETY: takes numbers only. A kernel that has no huge pages need not be told.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1_u64, 0_u64, 0_u64, 0_u64) };
    }
    Ok(())
}

fn limit(resource: u32, value: u64) -> Outcome {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the struct lives on this stack for the call.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }).map_err(|e| (Step::Limits, e))
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

/// Last of all: it takes a promise of no new privileges, and this process opens no more files.
fn hold_opens(plan: &Plan) -> Outcome {
    if plan.opens.is_none() {
        return Ok(());
    }
    opens::hold(OPENS).map_err(|e| (Step::Opens, e))
}

/// After the change of ids, which clears it.
fn lifeline() -> Outcome {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).map_err(|e| (Step::Lifeline, e))
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

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const AT_RECURSIVE: c_int = 0x8000;
const AT_EMPTY_PATH: c_int = 0x1000;

fn mount(source: &CStr, target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong, data: Option<&CStr>) -> Result<(), i32> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let data: *const c_char = data.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: null or null-terminated strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data.cast()) })
}

fn mount_attr(dir: c_int, path: &CStr, flags: c_int, set: u64) -> Result<(), i32> {
    // struct mount_attr { attr_set, attr_clr, propagation, userns_fd }
    let attr = [set, 0, 0, 0];
    // SAFETY: the array is the struct's 32 bytes and outlives the call.
    check_long(unsafe { libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, attr.as_ptr(), size_of_val(&attr)) })
}

fn open_tree(path: &CStr) -> Result<c_int, i32> {
    // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    let flags = 1 | libc::O_CLOEXEC;
    // SAFETY: a null-terminated string that outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 { Err(errno()) } else { c_int::try_from(fd).map_err(|_| libc::EMFILE) }
}

fn move_mount(tree: c_int, target: &CStr) -> Result<(), i32> {
    const F_EMPTY_PATH: c_int = 4;
    // SAFETY: null-terminated strings that outlive the call; the descriptor is ours.
    check_long(unsafe { libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), F_EMPTY_PATH) })
}

fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), i32> {
    // SAFETY: a null-terminated string, and pointer and length of one slice; the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let outcome = if written < 0 { Err(errno()) } else { Ok(()) };
        libc::close(fd);
        outcome
    }
}

fn check(result: c_int) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn check_long(result: c_long) -> Result<(), i32> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> i32 {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// The Landlock ABI this kernel offers.
pub(super) fn landlock_abi() -> Option<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no attribute; it only answers.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0, VERSION) };
    u32::try_from(version).ok().filter(|v| *v > 0)
}
