//! What an `exec` costs at least: everything that has to be there, and nothing of smolvm's.
//!
//! ```text
//!   ask ──a byte──► QEMU's socket ──► virtio-serial ──► answer (init): fork, exec, wait of /bin/true ──a byte──► ask
//! ```
//! A process is started on the host, an idle guest wakes, a program runs in it, and the host hears of its end. There is
//! no monitor in between, no session, no output, no status, no jail: a design can be above this, and none below.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::bed::Bed;
use super::cpio::{self, File as Packed};
use super::raw::RawBoot;

/// What the line needs, in load order.
const MODULES: [&str; 4] = ["virtio_ring", "virtio", "virtio_mmio", "virtio_console"];
const PATIENCE: Duration = Duration::from_mins(1);

/// A guest that answers.
pub(super) struct Floor {
    _hypervisor: Running,
    line: UnixStream,
    ask: std::path::PathBuf,
}

impl Floor {
    /// Boots it on the machine of a running sandbox, with that guest's own `/bin/true`.
    pub(super) fn like(bed: &Bed, sandbox: &str) -> Result<Self> {
        let initrd = bed.home.join("floor.cpio");
        std::fs::write(&initrd, archive(bed, sandbox)?).context("the floor's initramfs")?;
        let socket = bed.home.join("floor.sock");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).context("the floor's line")?;
        let mut raw = RawBoot::like(bed, sandbox)?;
        raw.boot_into(&initrd);
        let mut command: Command = raw.command()?;
        command.args(["-chardev", &format!("socket,id=line,path={}", socket.display())]);
        command.args(["-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,nr=1,chardev=line"]);
        let hypervisor = Running(command.stdout(Stdio::null()).spawn().context("cannot start the hypervisor")?);
        let line = hypervisor.connects_to(&listener).with_context(|| raw.last_words())?;
        let floor = Self { _hypervisor: hypervisor, line, ask: bed.ask.clone() };
        // The first answer comes once it has booted.
        floor.line.set_read_timeout(Some(PATIENCE))?;
        floor.time().context("the floor's guest")?;
        Ok(floor)
    }

    /// From starting a process on the host to its end.
    pub(super) fn time(&self) -> Result<Duration> {
        let end = || self.line.try_clone().map(OwnedFd::from).map(Stdio::from);
        let mut command = Command::new(&self.ask);
        command.env_clear().stdin(end()?).stdout(end()?);
        let begin = Instant::now();
        let status = command.status().context("cannot ask")?;
        let took = begin.elapsed();
        ensure!(status.success(), "the guest did not answer");
        Ok(took)
    }
}

/// A process that is ended with the measurement, however that ends.
struct Running(Child);

impl Running {
    /// Waits for it to connect.
    fn connects_to(&self, listener: &UnixListener) -> Result<UnixStream> {
        let pid = rustix::process::Pid::from_child(&self.0);
        let ended = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).context("the hypervisor")?;
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        let heard = poll(&mut fds, Some(&Timespec::try_from(PATIENCE)?)).context("the floor's line")?;
        ensure!(heard > 0, "the hypervisor did not connect in {} s", PATIENCE.as_secs());
        ensure!(!fds[0].revents().is_empty(), "the hypervisor ended before it connected");
        Ok(listener.accept().context("the floor's line")?.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn archive(bed: &Bed, sandbox: &str) -> Result<Vec<u8>> {
    let kernels = bed.home.join("cache/kernels");
    let current = std::fs::read_to_string(kernels.join("current")).context("the current kernel")?;
    let modules = kernels.join(current.trim()).join("modules");
    let program = bed.bytes(&["exec", sandbox, "--", "cat", "/bin/true"])?;
    let mut files = vec![
        Packed::program("init", std::fs::read(&bed.answer)?),
        Packed::directory("bin"),
        Packed::program("bin/true", program),
        Packed::directory("modules"),
    ];
    for (number, name) in MODULES.iter().enumerate() {
        let path = modules.join(name).with_extension("ko");
        ensure!(File::open(&path).is_ok(), "the kernel has no module {name}");
        files.push(Packed::program(&format!("modules/{number}"), std::fs::read(path)?));
    }
    Ok(cpio::archive(&files))
}
