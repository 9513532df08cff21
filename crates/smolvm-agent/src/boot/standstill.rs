//! Every process of the guest but the agent stands still, and goes on.
//!
//! ```text
//!   stop:    look, again and again until nothing is found:             go on:   thaw their own groups,
//!              processes of the root group ──► into a frozen one of ours           ours back to the root group,
//!              the guest's own groups ───────► frozen, with all below              ours is removed
//!            and until the kernel says that all of them have arrived
//! ```
//!
//! It is the freezer of control groups that holds them: what is in a frozen group never returns to its own code, what it
//! forks is born frozen, and neither itself nor a parent that waits for it can see that. Only the root group cannot be
//! frozen, which is where commands run; so who is there is moved, and moved back.
//!
//! Invariants: nobody is thawed whom the guest itself had frozen; whoever fails in the middle lets everybody go on; no
//! loop is longer than its deadline but the one over processes that are frozen, which cannot become more.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsmount, fsopen,
    fspick,
};

use super::failed;
use crate::serve::{BootFailure, Rest};

/// Our own group, as long as somebody is in it.
const OURS: &CStr = c"smolvm-rest";

/// How often it is looked whether all have arrived.
const LOOK: Duration = Duration::from_micros(300);

/// The agent comes first while others are to be stopped by it.
const FIRST: i32 = -20;

/// The flag of a thread of the kernel in `/proc/PID/stat`: it can neither be frozen nor draw numbers for anybody.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The guest's control groups, through handles that nothing the guest mounts or unmounts can take away.
pub(super) struct Standstill {
    groups: OwnedFd,
    proc: OwnedFd,
    held: Held,
}

/// Who stands still.
#[derive(Debug, Default)]
struct Held {
    /// Whether our own group is there.
    ours: bool,
    /// Groups of the guest's that were frozen for it.
    frozen: Vec<CString>,
    /// Groups that the guest had frozen itself.
    found_frozen: Vec<CString>,
    /// Threads of the kernel that were seen: none of their numbers is given away while everybody stands still.
    kernel: Vec<u32>,
}

impl Standstill {
    /// Opens what is needed. Early, for a mount decides over the options of all mounts of this kind, and so the
    /// guest's own, coming later, has its way.
    pub(super) fn open() -> Result<Self, BootFailure> {
        let proc = openat(rustix::fs::CWD, "/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            groups: mount().map_err(failed("standstill", "control groups"))?,
            proc: proc.map_err(failed("standstill", "/proc"))?,
            held: Held::default(),
        })
    }

    /// Lets processes be moved at once. Otherwise the first move of a while waits until every processor has been
    /// idle, some 20 ms; preparing for it takes as long, so it is for a template, whose forks all have it.
    pub(super) fn make_quick(&self) {
        let quickly = || -> Result<(), Errno> {
            let context = fspick(&self.groups, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH)?;
            fsconfig_set_flag(&context, "favordynmods")?;
            fsconfig_reconfigure(&context)
        };
        if let Err(errno) = quickly() {
            crate::log::line(format_args!("coming to rest will take longer: {errno}"));
        }
    }

    /// Stops all, or none: then all go on.
    pub(super) fn stop(&mut self, until: Instant) -> Result<Rest, BootFailure> {
        let _ = rustix::process::setpriority_process(None, FIRST);
        let stopped = self.stop_all(until);
        if let Ok(Rest::Reached) = stopped {
            return stopped.map_err(failed("standstill", "stop"));
        }
        self.go_on();
        stopped.map_err(failed("standstill", "stop"))
    }

    fn stop_all(&mut self, until: Instant) -> Result<Rest, Errno> {
        loop {
            let more = self.sweep(until)?;
            // What was still on its way when it was first looked for has arrived when nothing new is found behind it.
            if !self.arrive(until)? {
                return Ok(Rest::Missed);
            }
            if !more {
                return Ok(Rest::Reached);
            }
        }
    }

    /// Stops whoever runs as yet. True: there was somebody.
    fn sweep(&mut self, until: Instant) -> Result<bool, Errno> {
        let mut more = false;
        for name in self.top_groups()? {
            if name.as_c_str() == OURS || self.held.frozen.contains(&name) || self.held.found_frozen.contains(&name) {
                continue;
            }
            more = true;
            let frozen = match self.read(&name, c"cgroup.freeze") {
                Ok(text) => text.trim() == "1",
                Err(Errno::NOENT | Errno::NODEV) => continue,
                Err(errno) => return Err(errno),
            };
            if frozen {
                self.held.found_frozen.push(name);
            } else {
                // On record first: who fails here is thawed all the same.
                self.held.frozen.push(name);
                if let Some(name) = self.held.frozen.last() {
                    gone_is_fine(self.write(name, c"cgroup.freeze", "1"))?;
                }
            }
        }
        let strangers = self.strangers()?;
        if strangers.is_empty() {
            return Ok(more);
        }
        if !self.held.ours {
            match mkdirat(&self.groups, OURS, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => self.held.ours = true,
                Err(errno) => return Err(errno),
            }
            self.write(OURS, c"cgroup.freeze", "1")?;
        }
        let procs = self.procs(OURS, OFlags::WRONLY)?;
        for pid in strangers {
            gone_is_fine(put(procs.as_fd(), pid))?;
            // It comes back with everybody that was not moved yet.
            if Instant::now() >= until {
                break;
            }
        }
        Ok(true)
    }

    /// Waits until nobody in a group that was frozen runs any more. False: not in time.
    fn arrive(&self, until: Instant) -> Result<bool, Errno> {
        let ours = self.held.ours.then_some(OURS);
        for name in ours.into_iter().chain(self.held.frozen.iter().chain(&self.held.found_frozen).map(CString::as_c_str)) {
            loop {
                match self.read(name, c"cgroup.events") {
                    Ok(events) if is_frozen(&events) => break,
                    Ok(_) => {}
                    Err(Errno::NOENT | Errno::NODEV) => break,
                    Err(errno) => return Err(errno),
                }
                if Instant::now() >= until {
                    return Ok(false);
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(Instant::now() < until)
    }

    /// Lets all go on whom [`Self::stop`] stopped.
    pub(super) fn go_on(&mut self) {
        let held = std::mem::take(&mut self.held);
        if held.ours
            && let Err(errno) = self.empty_ours()
        {
            crate::log::line(format_args!("whoever was at rest may be in another control group: {errno}"));
        }
        for name in &held.frozen {
            if let Err(errno) = gone_is_fine(self.write(name, c"cgroup.freeze", "0")) {
                crate::log::line(format_args!("a control group could not be thawed: {errno}"));
            }
        }
        let _ = rustix::process::setpriority_process(None, 0);
    }

    /// Moves everybody back; each goes on as it is moved. Who could not be moved goes on where it is.
    fn empty_ours(&self) -> Result<(), Errno> {
        let emptied = self.move_back();
        self.write(OURS, c"cgroup.freeze", "0")?;
        emptied?;
        unlinkat(&self.groups, OURS, AtFlags::REMOVEDIR)
    }

    fn move_back(&self) -> Result<(), Errno> {
        let root = self.procs(c".", OFlags::WRONLY)?;
        loop {
            let members = pids(&self.read(OURS, c"cgroup.procs")?);
            let mut moved = false;
            for pid in &members {
                match put(root.as_fd(), *pid) {
                    Ok(()) => moved = true,
                    Err(Errno::SRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
            // Nobody there, or nobody who is not ending.
            if !moved {
                return Ok(());
            }
        }
    }

    /// Processes in the root group that are neither the agent nor the kernel's.
    fn strangers(&mut self) -> Result<Vec<u32>, Errno> {
        let mut strangers = Vec::new();
        for pid in pids(&self.read(c".", c"cgroup.procs")?) {
            if pid == 1 || self.held.kernel.binary_search(&pid).is_ok() {
                continue;
            }
            match self.read_proc(pid) {
                Ok(stat) if is_kernel_thread(&stat) => {
                    if let Err(at) = self.held.kernel.binary_search(&pid) {
                        self.held.kernel.insert(at, pid);
                    }
                }
                Err(Errno::NOENT | Errno::SRCH) => {}
                // One of which nothing is known is better moved.
                Ok(_) | Err(_) => strangers.push(pid),
            }
        }
        Ok(strangers)
    }

    fn top_groups(&self) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        // The handle of a mount is one of a place, which cannot be read.
        let top = openat(&self.groups, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in Dir::new(top)? {
            let entry = entry?;
            if entry.file_type() == FileType::Directory && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    fn procs(&self, group: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat(&self.groups, in_group(group, c"cgroup.procs"), flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn read(&self, group: &CStr, file: &CStr) -> Result<String, Errno> {
        read_all(&openat(&self.groups, in_group(group, file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn write(&self, group: &CStr, file: &CStr, value: &str) -> Result<(), Errno> {
        let file = openat(&self.groups, in_group(group, file), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file, value.as_bytes()).map(drop)
    }

    fn read_proc(&self, pid: u32) -> Result<String, Errno> {
        let path = format!("{pid}/stat");
        read_all(&openat(&self.proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// The control groups of this machine, at no path.
fn mount() -> Result<OwnedFd, Errno> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn in_group(group: &CStr, file: &CStr) -> Vec<u8> {
    [group.to_bytes(), b"/", file.to_bytes()].concat()
}

fn put(procs: BorrowedFd<'_>, pid: u32) -> Result<(), Errno> {
    rustix::io::write(procs, pid.to_string().as_bytes()).map(drop)
}

/// What ended, or was removed, meanwhile is at rest.
fn gone_is_fine(outcome: Result<(), Errno>) -> Result<(), Errno> {
    match outcome {
        Err(Errno::SRCH | Errno::NOENT | Errno::NODEV) => Ok(()),
        other => other,
    }
}

fn read_all(file: &OwnedFd) -> Result<String, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match rustix::io::read(file, &mut chunk[..])? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The processes of a group.
fn pids(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// What `cgroup.events` says.
fn is_frozen(events: &str) -> bool {
    events.lines().any(|line| line == "frozen 1")
}

/// What `/proc/PID/stat` says; the name in it is the process's own choice, brackets and all.
fn is_kernel_thread(stat: &str) -> bool {
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)).and_then(|word| word.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_says_who_is_its_thread() {
        assert!(is_kernel_thread("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 3 0 0"));
        assert!(!is_kernel_thread("40 (sh) S 1 40 40 0 -1 4194304 120 0 0 0 0 0 0 0 20 0 1 0 99 2400256 200"));
        let liar = "41 (x) S 0 0 0 0 -1 2129984 0) R 1 41 41 0 -1 4194304 120 0 0 0 0 0 0 0 20 0 1 0 99 2400256 200";
        assert!(!is_kernel_thread(liar), "a name is what a process says of itself");
        for odd in ["", "7", "7 (x", "7 (x)", "7 (x) S 0 0 0 0 -1", "7 (x) S 0 0 0 0 -1 many"] {
            assert!(!is_kernel_thread(odd), "{odd:?}: what cannot be read is better stopped");
        }
    }

    #[test]
    fn what_the_kernel_says_of_groups_is_read() {
        assert_eq!(pids("1\n2\n40\n"), [1, 2, 40]);
        assert_eq!(pids(""), [0_u32; 0]);
        assert!(is_frozen("populated 1\nfrozen 1\n"));
        assert!(!is_frozen("populated 1\nfrozen 0\n") && !is_frozen("populated 1\n") && !is_frozen(""));
    }
}
