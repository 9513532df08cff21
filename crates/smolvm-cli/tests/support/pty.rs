//! The binary on a terminal of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use testkit::prerequisite;

use super::Place;

/// How long anything on the terminal may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A command whose standard streams are a terminal, which is also its controlling terminal: Ctrl-C
/// typed on it is a real one.
pub(crate) struct Pty {
    child: Child,
    master: Option<File>,
    seen: Vec<u8>,
}

impl Pty {
    /// Runs `smolvm ARGS` in the place.
    pub(crate) fn smolvm(place: &Place, args: &[&str]) -> Self {
        let (master, slave) = pair();
        let dup = || slave.try_clone().expect("a descriptor");
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(prerequisite::smolvm_bin()).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SMOLVM_HOME", place.home()).env("TERM", "dumb");
        command.current_dir(place.scratch()).stdin(dup()).stdout(dup()).stderr(dup());
        let child = place.inside(|| command.spawn()).expect("setsid starts");
        drop(command);
        Self { child, master: Some(master.into()), seen: Vec::new() }
    }

    /// Reads until `text` stands on the screen; gives all that was seen.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        while !self.screen().contains(text) {
            assert!(self.read(deadline), "{text:?} did not come; the screen shows:\n{}", self.screen());
        }
        self.screen()
    }

    /// Types.
    pub(crate) fn types(&mut self, keys: &str) {
        self.master.as_mut().expect("the terminal is there").write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Takes the terminal away, as when its window is closed.
    pub(crate) fn hang_up(&mut self) {
        self.master = None;
    }

    /// Waits for the end; gives the exit status (128+N for a signal) and all that was seen.
    #[track_caller]
    pub(crate) fn end(mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + LIMIT;
        while self.read(deadline) {}
        let status = testkit::until("the command on the terminal ends", LIMIT, || self.child.try_wait().expect("our own child"));
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        (code, self.screen())
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen).replace("\r\n", "\n")
    }

    /// Takes what is there; false when nothing will come any more.
    fn read(&mut self, deadline: Instant) -> bool {
        let Some(master) = &mut self.master else { return false };
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: 1_000_000 };
        if left.is_zero() || poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&wait)).unwrap_or(0) == 0 {
            return false;
        }
        let mut chunk = [0; 4096];
        // The last holder of the other end has gone: an error, not an end.
        match master.read(&mut chunk) {
            Ok(count @ 1..) => {
                self.seen.extend_from_slice(&chunk[..count]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname(&master, Vec::new()).expect("the terminal has a name");
    let slave =
        rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("the terminal opens");
    (master, slave)
}
