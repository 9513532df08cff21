//! Everything a program in a jail might try.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use smolvm_model::engine::{argv, fd};
use standin::Targets;

use crate::sys::{adopt, call, in_child};

/// One attempt.
pub(crate) struct Attempt {
    /// What it is called in the report.
    pub(crate) name: &'static str,
    /// Makes it; an error is the kernel's refusal.
    pub(crate) run: fn(&Targets) -> Result<(), i32>,
}

const fn attempt(name: &'static str, run: fn(&Targets) -> Result<(), i32>) -> Attempt {
    Attempt { name, run }
}

/// All of them. Names that start with `may` succeed in the jail on purpose.
pub(crate) const ALL: &[Attempt] = &[
    attempt("read /etc/passwd", |_| read("/etc/passwd")),
    attempt("read /proc/self/status", |_| read("/proc/self/status")),
    attempt("list processes", |_| std::fs::read_dir("/proc").map(drop).map_err(errno)),
    attempt("read another sandbox's file", |t| read(&t.other_file)),
    attempt("write another sandbox's file", |t| open_for_writing(&t.other_file)),
    attempt("reopen a descriptor through /proc", |_| open_for_writing("/proc/self/fd/3")),
    attempt("reopen a descriptor through /dev/fd", |_| open_for_writing("/dev/fd/0")),
    attempt("write the library", |t| open_for_writing(&t.library)),
    attempt("create a file", |_| {
        File::create("/tmp/standin-was-here").map(|_| drop(std::fs::remove_file("/tmp/standin-was-here"))).map_err(errno)
    }),
    attempt("make a directory", |_| {
        std::fs::create_dir("/tmp/standin-dir").map(|()| drop(std::fs::remove_dir("/tmp/standin-dir"))).map_err(errno)
    }),
    attempt("mount", |_| mount()),
    attempt("change root", |_| chroot()),
    attempt("connect to a unix socket", |t| UnixStream::connect(&t.unix_path).map(drop).map_err(errno)),
    attempt("connect to an abstract socket", |t| abstract_socket(&t.unix_abstract)),
    attempt("connect to tcp on loopback", |t| TcpStream::connect(("127.0.0.1", t.tcp_port)).map(drop).map_err(errno)),
    attempt("signal everybody", |_| call(libc::SYS_kill, [usize::MAX, 0, 0, 0, 0]).map(drop)),
    attempt("signal a process of the host", |t| call(libc::SYS_kill, [pid(t), 0, 0, 0, 0]).map(drop)),
    attempt("open a process of the host", |t| call(libc::SYS_pidfd_open, [pid(t), 0, 0, 0, 0]).map(drop)),
    attempt("trace a process of the host", |t| call(libc::SYS_ptrace, [0x4206, pid(t), 0, 0, 0]).map(drop)),
    attempt("become root", |_| call(libc::SYS_setresuid, [0, 0, 0, 0, 0]).map(drop)),
    attempt("take a group", |_| setgroups()),
    attempt("run a shell", |_| in_child(|| exec("/bin/sh"))),
    attempt("run a program from memory", |_| in_child(exec_from_memory)),
    attempt("make a user namespace", |_| unshare(libc::CLONE_NEWUSER)),
    attempt("make a mount namespace", |_| unshare(libc::CLONE_NEWNS)),
    attempt("make a network namespace", |_| unshare(libc::CLONE_NEWNET)),
    attempt("name the host", |_| in_child(|| unshare(libc::CLONE_NEWUTS).and_then(|()| sethostname()))),
    attempt("raise the limit on files", |_| set_limit(libc::RLIMIT_NOFILE.into(), 1024)),
    attempt("raise the limit on file size", |_| set_limit(libc::RLIMIT_FSIZE.into(), u64::MAX)),
    attempt("take more processor time", |_| call(libc::SYS_setpriority, [0, 0, usize::MAX - 4, 0, 0]).map(drop)),
    attempt("make a raw socket", |_| socket(libc::AF_INET, libc::SOCK_RAW, 1)),
    attempt("inside: write the kernel", |_| open_for_writing(argv::KERNEL)),
    attempt("inside: write the initramfs", |_| open_for_writing(argv::INITRD)),
    attempt("inside: remove the kernel", |_| std::fs::remove_file(argv::KERNEL).map_err(errno)),
    attempt("inside: execute the kernel", |_| in_child(|| exec(argv::KERNEL))),
    attempt("inside: create a file in its root", |_| File::create("/f").map(drop).map_err(errno)),
    attempt("inside: name the host", |_| sethostname()),
    attempt("inside: make a device", |_| make_device()),
    attempt("inside: write the root image", |_| adopt(fd::ROOT).write_at(b"x", 0).map(drop).map_err(errno)),
    attempt("inside: map the root image writable", |_| map_writable(fd::ROOT)),
    attempt("inside: grow the data disk", |t| adopt(fd::DATA).write_at(b"x", t.file_size).map(drop).map_err(errno)),
    attempt("inside: leave a core file", |_| core_allowed()),
    attempt("left to seccomp: make a process", |_| in_child(|| Ok(()))),
    attempt("left to seccomp: run its own program again", |_| in_child(exec_again)),
    attempt("may read the kernel", |_| read(argv::KERNEL)),
    attempt("may write the data disk", |_| adopt(fd::DATA).write_at(b"standin", 0).map(drop).map_err(errno)),
    attempt("may read the root image", |_| adopt(fd::ROOT).read_at(&mut [0; 16], 0).map(drop).map_err(errno)),
    attempt("may use /dev/null", |_| open_for_writing("/dev/null")),
];

/// The numbers below 1024 that are open descriptors.
pub(crate) fn open_descriptors() -> Vec<usize> {
    let get = usize::try_from(libc::F_GETFD).unwrap_or(1);
    (0..1024).filter(|fd| call(libc::SYS_fcntl, [*fd, get, 0, 0, 0]).is_ok()).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EINVAL)
}

fn pid(targets: &Targets) -> usize {
    usize::try_from(targets.victim_pid).unwrap_or(usize::MAX)
}

fn read(path: &str) -> Result<(), i32> {
    File::open(path).map(drop).map_err(errno)
}

fn open_for_writing(path: &str) -> Result<(), i32> {
    OpenOptions::new().write(true).open(path).map(drop).map_err(errno)
}

fn c(path: &str) -> CString {
    CString::new(path).unwrap_or_default()
}

fn mount() -> Result<(), i32> {
    // Outside, only in a mount namespace of its own.
    unshare(libc::CLONE_NEWNS)?;
    let (none, root, dir, kind) = (c("none"), c("/"), c("/proc"), c("tmpfs"));
    let at = |s: &CString| s.as_ptr() as usize;
    let private = usize::try_from(libc::MS_REC | libc::MS_PRIVATE).unwrap_or(0);
    call(libc::SYS_mount, [at(&none), at(&root), 0, private, 0])?;
    call(libc::SYS_mount, [at(&none), at(&dir), at(&kind), 0, 0]).map(drop)
}

fn chroot() -> Result<(), i32> {
    call(libc::SYS_chroot, [c("/").as_ptr() as usize, 0, 0, 0, 0]).map(drop)
}

fn abstract_socket(name: &str) -> Result<(), i32> {
    let address = SocketAddr::from_abstract_name(name).map_err(errno)?;
    UnixStream::connect_addr(&address).map(drop).map_err(errno)
}

fn setgroups() -> Result<(), i32> {
    let groups = [0_u32];
    call(libc::SYS_setgroups, [1, groups.as_ptr() as usize, 0, 0, 0]).map(drop)
}

/// Outside this runs a shell that does nothing; the child's status is the shell's.
fn exec(path: &str) -> Result<(), i32> {
    let (path, option, script) = (c(path), c("-c"), c("exit 0"));
    let argv = [path.as_ptr(), option.as_ptr(), script.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    call(libc::SYS_execve, [path.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0]).map(drop)
}

/// Its own program, asked for its version.
fn exec_again() -> Result<(), i32> {
    let program = std::env::args().next().unwrap_or_default();
    // Its words would stand between the lines of the report.
    let (program, option) = (c(&program), c("--nothing"));
    let argv = [program.as_ptr(), option.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    call(libc::SYS_execve, [program.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0]).map(drop)
}

/// The smallest program there is, in a file that has no path.
fn exec_from_memory() -> Result<(), i32> {
    const EXEC: usize = 0x10;
    const EMPTY_PATH: usize = 0x1000;
    let mut elf = vec![0_u8; 120];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1]);
    put(24, &(0x40_0000_u64 + 120).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 1]);
    put(64, &[1, 0, 0, 0, 5]);
    put(80, &0x40_0000_u64.to_le_bytes());
    put(96, &129_u64.to_le_bytes());
    put(104, &129_u64.to_le_bytes());
    put(112, &0x1000_u64.to_le_bytes());
    // mov eax, 60; xor edi, edi; syscall
    elf.extend_from_slice(&[0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
    let name = c("m");
    let fd = call(libc::SYS_memfd_create, [name.as_ptr() as usize, EXEC, 0, 0, 0])
        .or_else(|_| call(libc::SYS_memfd_create, [name.as_ptr() as usize, 0, 0, 0, 0]))?;
    let fd = usize::try_from(fd).unwrap_or(usize::MAX);
    call(libc::SYS_write, [fd, elf.as_ptr() as usize, elf.len(), 0, 0])?;
    let (empty, none) = (c(""), [std::ptr::null::<libc::c_char>()]);
    call(libc::SYS_execveat, [fd, empty.as_ptr() as usize, none.as_ptr() as usize, none.as_ptr() as usize, EMPTY_PATH]).map(drop)
}

fn unshare(flag: i32) -> Result<(), i32> {
    call(libc::SYS_unshare, [usize::try_from(flag).unwrap_or(0), 0, 0, 0, 0]).map(drop)
}

fn sethostname() -> Result<(), i32> {
    let name = b"standin";
    call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len(), 0, 0, 0]).map(drop)
}

fn set_limit(resource: i64, value: u64) -> Result<(), i32> {
    let limit = [value, value];
    call(libc::SYS_setrlimit, [usize::try_from(resource).unwrap_or(0), limit.as_ptr() as usize, 0, 0, 0]).map(drop)
}

fn socket(family: i32, kind: i32, protocol: usize) -> Result<(), i32> {
    let [family, kind] = [family, kind].map(|n| usize::try_from(n).unwrap_or(0));
    call(libc::SYS_socket, [family, kind, protocol, 0, 0]).map(drop)
}

fn make_device() -> Result<(), i32> {
    let at_cwd = usize::MAX - 99;
    let block = usize::try_from(libc::S_IFBLK | 0o666).unwrap_or(0);
    call(libc::SYS_mknodat, [at_cwd, c("/dev/disk").as_ptr() as usize, block, 0xfe00, 0]).map(drop)
}

fn map_writable(fd: i32) -> Result<(), i32> {
    let protection = usize::try_from(libc::PROT_READ | libc::PROT_WRITE).unwrap_or(3);
    let shared = usize::try_from(libc::MAP_SHARED).unwrap_or(1);
    call(libc::SYS_mmap, [0, 4096, protection, shared, usize::try_from(fd).unwrap_or(0)]).map(drop)
}

fn core_allowed() -> Result<(), i32> {
    let mut limit = [u64::MAX; 2];
    call(libc::SYS_getrlimit, [usize::try_from(libc::RLIMIT_CORE).unwrap_or(4), (&raw mut limit) as usize, 0, 0, 0])?;
    if limit == [0, 0] { Err(libc::EPERM) } else { Ok(()) }
}
