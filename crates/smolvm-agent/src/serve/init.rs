//! The image's own init, in a namespace of processes in which it is pid 1.
//!
//! ```text
//!   pid 1: agent ── unshare(pids) ── clone ──► /sbin/init      pid 1 of its own namespace: mounts its /proc, becomes init
//!            └────────────────────── clone ──► commands        the same namespace: they see init, its services, and one another
//! ```
//!
//! Files, network and names of the machine are shared: what a command sees is what init sees. The agent keeps the line to the host,
//! and the last word: when init ends, the kernel ends all that is in its namespace, and the machine goes down in order.

use std::path::{Path, PathBuf};

use rustix::process::Pid;
use smolvm_proto::InitConfig;

use super::exec::Starter;
use super::guest::{BootFailure, Guest};

/// Where an init is looked for.
const PLACES: [&str; 4] = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init"];
const STEP: &str = "init";

/// An init that was started.
#[derive(Debug)]
pub(super) struct Init {
    pid: Pid,
    stop_signal: i32,
    ended: bool,
}

impl Init {
    /// Starts it, and makes its namespace that of all commands to come.
    pub(super) fn start(config: InitConfig, guest: &mut dyn Guest, starter: &mut Starter) -> Result<Self, BootFailure> {
        let found = PLACES.into_iter().find_map(|place| Some((place, std::fs::canonicalize(place).ok().filter(|path| path.is_file())?)));
        let (place, program) = found.ok_or_else(|| BootFailure { step: STEP, message: format!("the image has no {}", PLACES[0]) })?;
        guest.part_processes()?;
        let pid = starter.init(place).map_err(|failure| {
            let what = format!("{place}: {:?}: {}", failure.stage, failure.errno);
            BootFailure { step: STEP, message: what }
        })?;
        Ok(Self { pid, stop_signal: config.stop_signal.unwrap_or_else(|| usual_stop_signal(&program)), ended: false })
    }

    /// Whether this process is it; then it has ended.
    pub(super) fn ends(&mut self, pid: Pid) -> bool {
        let is_it = pid == self.pid && !self.ended;
        self.ended |= is_it;
        is_it
    }

    /// Asks it to take everything down in order. False if it is gone.
    pub(super) fn ask_to_stop(&self) -> bool {
        if !self.ended {
            crate::sys::kill::process(self.pid, self.stop_signal);
        }
        !self.ended
    }
}

/// What an init takes for "power off".
fn usual_stop_signal(program: &Path) -> i32 {
    let name = program.file_name().map(PathBuf::from).unwrap_or_default();
    match name.to_str() {
        // halt.target, as container managers ask for it.
        Some("systemd") => 34 + 3,
        Some("busybox") => libc::SIGUSR2,
        // "The power fails", as LXC asks others.
        _ => libc::SIGPWR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_asked_in_its_own_words() {
        for (program, signal) in [("/usr/lib/systemd/systemd", 37), ("/bin/busybox", 12), ("/sbin/openrc-init", 30), ("/", 30)] {
            assert_eq!(usual_stop_signal(Path::new(program)), signal, "{program}");
        }
    }
}
