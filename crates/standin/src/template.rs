//! A fork that goes for the template it was made from.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use smolvm_model::engine::argv;
use standin::{MAPPED, Template};

use crate::attempts::errno;
use crate::sys::{adopt, call};

/// What a fork holds of its template.
pub(crate) struct Held {
    /// Its memory.
    pub(crate) memory: File,
    /// The state of its devices.
    pub(crate) devices: File,
    /// Where both are on the host.
    pub(crate) paths: Template,
}

/// One attempt.
pub(crate) struct Attempt {
    /// What it is called in the report.
    pub(crate) name: &'static str,
    /// Makes it; an error is the kernel's refusal.
    pub(crate) run: fn(&Held) -> Result<(), i32>,
}

const fn attempt(name: &'static str, run: fn(&Held) -> Result<(), i32>) -> Attempt {
    Attempt { name, run }
}

/// All of them; only what starts with `may` succeeds in the jail.
pub(crate) const ALL: &[Attempt] = &[
    attempt("write the memory", |t| t.memory.write_at(b"standin", 0).map(drop).map_err(errno)),
    attempt("write the devices", |t| t.devices.write_at(b"standin", 0).map(drop).map_err(errno)),
    attempt("map the memory shared and writable", |t| map(&t.memory, libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE).map(drop)),
    attempt("map the devices shared and writable", |t| map(&t.devices, libc::MAP_SHARED, libc::PROT_READ | libc::PROT_WRITE).map(drop)),
    attempt("map the memory shared and make that writable", |t| {
        let at = map(&t.memory, libc::MAP_SHARED, libc::PROT_READ)?;
        call(libc::SYS_mprotect, [at, MAPPED, number(libc::PROT_READ | libc::PROT_WRITE), 0, 0]).map(drop)
    }),
    attempt("cut the memory short", |t| t.memory.set_len(MAPPED as u64).map_err(errno)),
    attempt("cut the devices short", |t| t.devices.set_len(1).map_err(errno)),
    attempt("punch a hole into the memory", |t| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        call(libc::SYS_fallocate, [number(t.memory.as_raw_fd()), number(mode), 0, MAPPED, 0]).map(drop)
    }),
    attempt("copy into the memory", |t| {
        let to = number(t.memory.as_raw_fd());
        call(libc::SYS_copy_file_range, [number(t.devices.as_raw_fd()), 0, to, 0, 4]).map(drop)
    }),
    attempt("send into the memory", |t| {
        call(libc::SYS_sendfile, [number(t.memory.as_raw_fd()), number(t.devices.as_raw_fd()), 0, 4, 0]).map(drop)
    }),
    attempt("reopen the memory through /proc", |t| reopen(&format!("/proc/self/fd/{}", t.memory.as_raw_fd()))),
    attempt("reopen the memory through /dev/fd", |t| reopen(&format!("/dev/fd/{}", t.memory.as_raw_fd()))),
    attempt("reopen the devices through /proc", |t| reopen(&format!("/proc/self/fd/{}", t.devices.as_raw_fd()))),
    attempt("open the memory by its path", |t| reopen(&t.paths.memory)),
    attempt("open the devices by their path", |t| reopen(&t.paths.devices)),
    attempt("take the write lock off the memory", |t| {
        let set = number(libc::F_SETFL);
        call(libc::SYS_fcntl, [number(t.memory.as_raw_fd()), set, number(libc::O_RDWR), 0, 0])?;
        t.memory.write_at(b"standin", 0).map(drop).map_err(errno)
    }),
    attempt("may read the memory", |t| t.memory.read_at(&mut [0; 16], 0).map(drop).map_err(errno)),
    attempt("may write to its own copy of the memory", |t| {
        let at = map(&t.memory, libc::MAP_PRIVATE, libc::PROT_READ | libc::PROT_WRITE)?;
        // The kernel writes the system's name there: 65 bytes of each field.
        call(libc::SYS_uname, [at, 0, 0, 0, 0]).map(drop)
    }),
];

/// Only makes sense where the opens are held: the name that the hypervisor was given leads nowhere any more.
pub(crate) fn open_the_name_again() -> Result<(), i32> {
    open_to_read_and_write().map(drop)
}

/// Opens the memory as the hypervisor does: with exactly these flags.
pub(crate) fn open_to_read_and_write() -> Result<File, i32> {
    let path = std::ffi::CString::new(argv::MEMORY).unwrap_or_default();
    let at_cwd = usize::MAX - 99;
    let fd = call(libc::SYS_openat, [at_cwd, path.as_ptr() as usize, number(libc::O_RDWR), 0, 0])?;
    i32::try_from(fd).map(adopt).map_err(|_| libc::EBADF)
}

/// Answers everything that the launcher asks of a hypervisor that waits for a template's state.
pub(crate) fn restore(qmp: &mut File) -> std::io::Result<()> {
    for line in BufReader::new(qmp.try_clone()?).lines() {
        let command: serde_json::Value = serde_json::from_str(&line?)?;
        writeln!(qmp, "{}", serde_json::json!({"return": {}, "id": command["id"]}))?;
        if command["execute"] == "cont" {
            break;
        }
    }
    Ok(())
}

fn reopen(path: &str) -> Result<(), i32> {
    OpenOptions::new().write(true).open(path).map(drop).map_err(errno)
}

fn map(file: &File, flags: i32, protection: i32) -> Result<usize, i32> {
    let at = call(libc::SYS_mmap, [0, MAPPED, number(protection), number(flags), number(file.as_raw_fd())])?;
    usize::try_from(at).map_err(|_| libc::EFAULT)
}

fn number(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}
