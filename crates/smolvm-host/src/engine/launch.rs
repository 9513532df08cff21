//! Starts a hypervisor in its jail and believes it only once it has answered and been looked at.
//!
//! ```text
//!   Place ──► files (probe) ──► jail::make ──► Prepared
//!                                                 │
//!   LaunchRequest ──► argv (model) + fd table ────┴► Jail::start ──► Started ──► answer on QMP ──► jail::inspect ──► Launched
//!                                                                       │ any failure after this kills and reaps it
//! ```
//!
//! What it will see is known before its disk and its network device are there, so its jail is made by then.
//! It needs some 20 ms until it answers. Whoever starts it has that time to write down who it is.

mod running;
mod started;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::pipe::{PipeFlags, pipe_with};
use smolvm_model::engine::{Accelerator, GuestMemory, LaunchArgs, MachineShape, NetDevice, NetKind, argv, fd, qemu_argv};
use smolvm_model::name::{LaunchToken, MacAddr, Mark};

use super::probe::Engine;
use super::qmp::{self, QmpError, QmpStream};
use crate::disk::OpenDisk;
use crate::effect::Permit;
use crate::jail::{self, Enforced, Jail, JailError, JailFile, JailIdentity, JailSpec, Jailed, Limits, Opens, Order, inspect};
use crate::proc::identity;
pub use running::outcome;
use running::{GREETING_PATIENCE, Running};
pub use started::Started;

/// QEMU opens about thirty descriptors for a microvm, and two more per KVM queue.
const OPEN_FILES: u64 = 256;
/// Threads besides one per virtual processor: main loop, RCU, QMP, and the pool for disk requests (64).
const THREADS: u64 = 80;

/// The network device and what is behind it.
#[derive(Debug)]
pub struct NetAttach {
    /// A TAP queue or a connected stream socket.
    pub fd: OwnedFd,
    /// Which of them.
    pub kind: NetKind,
    /// The device's address.
    pub mac: MacAddr,
}

/// Where the guest's memory comes from.
#[derive(Debug)]
pub enum Memory {
    /// Its own, empty: the machine boots.
    Anonymous,
    /// This file, as long as the memory and open for reading and writing: the machine boots, and can then be parked
    /// ([`migration::park`]).
    Parked(File),
    /// A template's files, open for reading only.
    Forked {
        /// The memory.
        memory: File,
        /// The devices.
        devices: File,
    },
    /// The same of a machine that ran ([`migration::save`]).
    Restored {
        /// The memory.
        memory: File,
        /// The devices.
        devices: File,
    },
}

impl Memory {
    /// Which kind it is.
    pub fn in_argv(&self) -> GuestMemory {
        match self {
            Self::Anonymous => GuestMemory::Anonymous,
            Self::Parked(_) => GuestMemory::Parked,
            Self::Forked { .. } => GuestMemory::Forked,
            Self::Restored { .. } => GuestMemory::Restored,
        }
    }

    /// The files with the memory and with the devices.
    fn files(self) -> (Option<File>, Option<OwnedFd>) {
        match self {
            Self::Anonymous => (None, None),
            Self::Parked(memory) => (Some(memory), None),
            Self::Forked { memory, devices } | Self::Restored { memory, devices } => (Some(memory), Some(devices.into())),
        }
    }
}

/// Where one hypervisor will run: all that its jail has to be made for.
#[derive(Debug)]
pub struct Place<'a> {
    /// The hypervisor.
    pub engine: &'a Engine,
    /// The machine.
    pub shape: MachineShape,
    /// Where its memory will come from.
    pub memory: GuestMemory,
    /// An ELF kernel; readable by the identity below (mode 0644).
    pub kernel: &'a Path,
    /// An initramfs; readable by the identity below (mode 0644).
    pub initramfs: &'a Path,
    /// Who it runs as.
    pub identity: JailIdentity,
}

/// A jail for one hypervisor, which is not started yet.
pub struct Prepared {
    jail: Jail,
    shape: MachineShape,
    memory: GuestMemory,
    program: PathBuf,
    exe: (u64, u64),
}

/// One start of one hypervisor.
#[derive(Debug)]
pub struct LaunchRequest<'a> {
    /// Whose it is.
    pub mark: &'a Mark,
    /// Which start it is.
    pub token: &'a LaunchToken,
    /// Where its memory comes from.
    pub memory: Memory,
    /// The host's time stamp counter frequency ([`super::accel::HostSpeed`]).
    pub tsc_khz: Option<u32>,
    /// The root image, opened read-only.
    pub root_image: File,
    /// The data disk. No file of the hypervisor's can become longer than a layer of it.
    pub data_disk: OpenDisk,
    /// The network device, if any.
    pub net: Option<NetAttach>,
}

/// A hypervisor that runs.
#[derive(Debug)]
pub struct Launched {
    /// Its pid as the caller sees it.
    pub pid: u32,
    /// A handle on it; it is this process's child, to be reaped with [`jail::reap`].
    pub pidfd: OwnedFd,
    /// Its start time.
    pub start_ticks: u64,
    /// Its executable's device and inode.
    pub exe: (u64, u64),
    /// The control socket, greeted and negotiated: ready for commands ([`super::qmp::Qmp::resume`]).
    pub qmp: UnixStream,
    /// What was read from it beyond the last answer.
    pub qmp_stream: QmpStream,
    /// The agent's byte stream.
    pub agent: UnixStream,
    /// The serial console, to be read (a socket: do not shut down its other direction).
    pub console: OwnedFd,
    /// Its standard error, to be read.
    pub stderr: OwnedFd,
    /// What the kernel says is enforced on it.
    pub enforced: Enforced,
}

/// Why there is no hypervisor; nothing of one is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A file it needs cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A file exists but the jailed user could not open it.
    #[error("{} cannot be read by the jailed hypervisor: its mode must allow everyone to read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
    },
    /// The KVM device cannot be given to the jailed user.
    #[error("/dev/kvm cannot be given to the jailed hypervisor: neither its group nor everyone may use it")]
    KvmNotGrantable,
    /// The jail could not be made.
    #[error("the hypervisor's jail could not be made")]
    Jail(#[from] JailError),
    /// It ended before it greeted.
    #[error("the hypervisor ended at its start ({}): {stderr}", outcome)]
    Died {
        /// How.
        outcome: Outcome,
        /// Its last words.
        stderr: String,
    },
    /// It does not speak QMP.
    #[error("the hypervisor's control socket carries {0}, not QMP")]
    Garbage(qmp::Garbage),
    /// It would not open the control session.
    #[error("the hypervisor refused its control session: {description}")]
    Refused {
        /// Its words.
        description: String,
    },
    /// The jail was made for another kind of memory.
    #[error("the hypervisor's jail was made for a guest of another kind")]
    Misplaced,
    /// The file with the guest's memory could not be handed over.
    #[error("the guest's memory cannot be handed to the hypervisor")]
    Memory(#[source] std::io::Error),
    /// Whoever copies the guest's memory gave up.
    #[error("the guest's memory was not copied to its end")]
    Withdrawn,
    /// The template's devices could not be loaded.
    #[error("the template cannot be forked")]
    Restore(#[from] QmpError),
    /// It did not greet in time.
    #[error("the hypervisor did not greet within {} s", GREETING_PATIENCE.as_secs())]
    Silent,
    /// What is enforced on it could not be found out.
    #[error("what is enforced on the hypervisor cannot be read")]
    Inspect(#[from] inspect::InspectError),
    /// A hard requirement does not hold.
    #[error("the hypervisor's jail does not hold: {0}")]
    Breach(inspect::Breach),
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What it was for.
        action: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a status.
    Exited(i32),
    /// By a signal.
    Signalled(i32),
    /// Nobody could tell.
    Unknown,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::Signalled(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown cause"),
        }
    }
}

/// Makes the jail; the calling process must have one thread and stay (see [`jail::make`]). What went wrong in it is told by [`start`].
pub fn prepare(place: &Place<'_>) -> Result<Prepared, LaunchError> {
    let &Place { engine, shape, memory, identity, .. } = place;
    let program = engine.binary.target.clone();
    let (devices, groups) = device_nodes(shape.accelerator, identity)?;
    let spec = JailSpec {
        program: program.clone(),
        files: files(engine, place.kernel, place.initramfs)?,
        devices,
        identity,
        groups,
        limits: Limits {
            open_files: OPEN_FILES,
            // Another process of the same user would count too.
            threads: matches!(identity, JailIdentity::Uid(_)).then_some(THREADS + u64::from(shape.cpus.get())),
        },
        // A guest's memory is better for them where a processor walks its tables. A translator has no use for them, but
        // asks for them for its code, of which an idle guest needs a third.
        huge_pages: shape.accelerator == Accelerator::Kvm,
        opens: if memory == GuestMemory::Anonymous { Opens::Kernel } else { Opens::Caller },
    };
    let exe = (engine.binary.id.dev, engine.binary.id.ino);
    Ok(Prepared { jail: jail::make(&spec)?, shape, memory, program, exe })
}

/// Starts the hypervisor in its jail.
pub fn start(_permit: &Permit, prepared: Prepared, request: LaunchRequest<'_>) -> Result<Started, LaunchError> {
    let system = |action| move |source: std::io::Error| LaunchError::System { action, source };
    let (qmp, qmp_theirs) = UnixStream::pair().map_err(system("make a socket"))?;
    let (agent, agent_theirs) = UnixStream::pair().map_err(system("make a socket"))?;
    let (console, console_theirs) = UnixStream::pair().map_err(system("make a socket"))?;
    let (stderr, stderr_theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| system("make a pipe")(e.into()))?;
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").map_err(system("open /dev/null"))?.into();

    let Prepared { jail, shape, memory, program, exe } = prepared;
    if memory != request.memory.in_argv() {
        return Err(LaunchError::Misplaced);
    }
    let (file, state) = request.memory.files();
    let OpenDisk { write, read, below, limit } = request.data_disk;
    let root: OwnedFd = request.root_image.into();
    let [write, read]: [OwnedFd; 2] = [write.into(), read.into()];
    let below: Vec<OwnedFd> = below.into_iter().map(OwnedFd::from).collect();
    let sockets: [OwnedFd; 3] = [qmp_theirs.into(), agent_theirs.into(), console_theirs.into()];
    let mut fds = vec![
        (&null, fd::STDIN),
        (&null, fd::STDOUT),
        (&stderr_theirs, fd::STDERR),
        (&root, fd::ROOT),
        (&write, fd::DATA),
        (&read, fd::DATA_READ),
        (&sockets[0], fd::QMP),
        (&sockets[1], fd::AGENT),
        (&sockets[2], fd::CONSOLE),
    ];
    fds.extend(request.net.as_ref().map(|net| (&net.fd, fd::NET)));
    fds.extend(state.as_ref().map(|state| (state, fd::DEVICES)));
    fds.extend(below.iter().zip(fd::LAYERS..));

    let args = LaunchArgs {
        mark: request.mark.clone(),
        token: request.token.clone(),
        shape,
        memory,
        layers: u8::try_from(below.len()).unwrap_or(u8::MAX),
        net: request.net.as_ref().map(|net| NetDevice { kind: net.kind, mac: net.mac }),
        tsc_khz: request.tsc_khz,
    };
    let order = Order { argv: qemu_argv(&program.to_string_lossy(), &args), fds, file_size: limit };
    let Jailed { pid, pidfd, landlock_abi, missing, opens } = jail.start(&order)?;
    drop(order);
    drop((sockets, stderr_theirs, root, write, read, below, request.net));

    let running = Running { pidfd: Some(pidfd) };
    let seen = identity::look(Path::new("/proc"), pid).map_err(system("read the hypervisor's start time"))?;
    // It cannot have been reaped, so it is there, if only as one that has ended.
    let start_ticks = seen.ok_or(LaunchError::Silent)?.start_ticks;
    Ok(Started { running, pid, start_ticks, exe, landlock_abi, missing, memory, file, opens, qmp, agent, console: console.into(), stderr })
}

/// Every file it sees: its own, the kernel, the initramfs.
fn files(engine: &Engine, kernel: &Path, initramfs: &Path) -> Result<Vec<JailFile>, LaunchError> {
    let own = std::iter::once(&engine.binary).chain(&engine.libraries).map(|f| JailFile {
        source: f.source.clone(),
        target: f.target.clone(),
        executable: f.target == engine.binary.target || f.target.to_string_lossy().contains(".so"),
    });
    let mut files: Vec<JailFile> = own.collect();
    for (path, target) in [(kernel, argv::KERNEL), (initramfs, argv::INITRD)] {
        let source = path.canonicalize().map_err(|source| LaunchError::File { path: path.to_owned(), source })?;
        files.push(JailFile { source, target: target.into(), executable: false });
    }
    for file in &files {
        let meta = std::fs::metadata(&file.source).map_err(|source| LaunchError::File { path: file.source.clone(), source })?;
        if meta.mode() & 0o004 == 0 && meta.uid() != rustix::process::geteuid().as_raw().max(1) {
            return Err(LaunchError::Unreadable { path: file.source.clone() });
        }
    }
    Ok(files)
}

/// The device nodes it sees, and the groups it needs for them.
fn device_nodes(accelerator: Accelerator, identity: JailIdentity) -> Result<(Vec<PathBuf>, Vec<u32>), LaunchError> {
    let mut devices = vec![PathBuf::from("/dev/null"), PathBuf::from("/dev/zero"), PathBuf::from("/dev/urandom")];
    let mut groups = Vec::new();
    match accelerator {
        Accelerator::Tcg => {}
        Accelerator::Kvm => {
            let path = PathBuf::from("/dev/kvm");
            let meta = std::fs::metadata(&path).map_err(|source| LaunchError::File { path: path.clone(), source })?;
            let by_group = meta.mode() & 0o060 == 0o060 && meta.gid() != 0;
            match identity {
                // An ordinary user keeps the groups it has, and the probe has opened the device with them.
                JailIdentity::Caller => {}
                JailIdentity::Uid(_) if meta.mode() & 0o006 == 0o006 => {}
                JailIdentity::Uid(_) if by_group => groups.push(meta.gid()),
                JailIdentity::Uid(_) => return Err(LaunchError::KvmNotGrantable),
            }
            devices.push(path);
        }
    }
    Ok((devices, groups))
}
