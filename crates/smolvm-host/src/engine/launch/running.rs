//! A hypervisor between its start and the moment when it is believed.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use smolvm_model::engine::argv;

use super::{LaunchError, Outcome};
use crate::engine::qmp::{self, QmpMessage, QmpStream};
use crate::jail::{self, Listener};
use crate::proc::kill;

/// From exec to the first answer takes about 30 ms; a host that swaps may need seconds.
pub(super) const GREETING_PATIENCE: Duration = Duration::from_secs(20);
/// What is kept of the last words of a hypervisor that died.
const STDERR_CAP: u64 = 4096;

/// A hypervisor that is killed and reaped unless it was taken out.
pub(super) struct Running {
    pub(super) pidfd: Option<OwnedFd>,
}

impl Running {
    /// Takes the greeting and opens the session.
    ///
    /// QEMU greets early and answers late: the reply comes from its main loop, so it says that the
    /// whole machine was made. Nothing behind the reply is read: it is for whoever gets the socket.
    pub(super) fn negotiate(&mut self, qmp: &UnixStream, stderr: &OwnedFd) -> Result<(), LaunchError> {
        let deadline = Instant::now() + GREETING_PATIENCE;
        let mut stream = QmpStream::default();
        loop {
            let mut byte = [0];
            match recv(qmp, &mut byte[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(self.death(stderr)),
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.await_word(qmp.as_fd(), stderr, Some(deadline))?;
                    continue;
                }
                Err(errno) => return Err(LaunchError::System { action: "hear from the hypervisor", source: errno.into() }),
            }
            for message in stream.feed(&byte).map_err(LaunchError::Garbage)? {
                match message {
                    QmpMessage::Greeting => {
                        let line = qmp::command("qmp_capabilities", None, 0);
                        // A few bytes into an empty socket: all of them or none.
                        let _ = send(qmp, &line, SendFlags::NOSIGNAL);
                    }
                    QmpMessage::Return { .. } => return Ok(()),
                    QmpMessage::Error { description, .. } => return Err(LaunchError::Refused { description }),
                    QmpMessage::Event { .. } => {}
                }
            }
        }
    }

    /// Waits until it opens the file with the guest's memory, and gives it that file.
    pub(super) fn hand_over(&mut self, file: &File, listener: &Listener, stderr: &OwnedFd) -> Result<(), LaunchError> {
        let deadline = Instant::now() + GREETING_PATIENCE;
        loop {
            self.await_word(listener.as_fd(), stderr, Some(deadline))?;
            match answer(listener, file) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // A signal took the call away before it was answered; it comes again, or the process has ended.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(LaunchError::Memory(e)),
            }
        }
    }

    /// Waits until whoever makes what the guest needs says that all of it is there. No deadline: nothing of the guest runs, and when the other
    /// one gives up or ends, that is heard.
    pub(super) fn await_leave(&mut self, word: BorrowedFd<'_>, stderr: &OwnedFd) -> Result<(), LaunchError> {
        loop {
            self.await_word(word, stderr, None)?;
            match rustix::io::read(word, &mut [0; 1][..]) {
                Ok(1..) => return Ok(()),
                Ok(0) | Err(Errno::CONNRESET) => return Err(LaunchError::Withdrawn),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(LaunchError::System { action: "hear that the guest may go on", source: errno.into() }),
            }
        }
    }

    fn await_word(&mut self, from: BorrowedFd<'_>, stderr: &OwnedFd, deadline: Option<Instant>) -> Result<(), LaunchError> {
        let Some(pidfd) = &self.pidfd else { return Err(LaunchError::Silent) };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let time = left.and_then(|left| Timespec::try_from(left).ok());
        let mut set = [PollFd::from_borrowed_fd(from, PollFlags::IN), PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match poll(&mut set, time.as_ref()) {
            Ok(0) => Err(LaunchError::Silent),
            Ok(_) if !set[1].revents().is_empty() => Err(self.death(stderr)),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(LaunchError::System { action: "wait for the hypervisor", source: errno.into() }),
        }
    }

    fn death(&mut self, stderr: &OwnedFd) -> LaunchError {
        let outcome = match self.pidfd.take() {
            Some(pidfd) => {
                // It closed its control socket: it is ending, or had better.
                let _ = kill::wait_all(std::slice::from_ref(&pidfd), Duration::from_millis(500));
                let _ = kill::kill(&pidfd);
                outcome(&pidfd)
            }
            None => Outcome::Unknown,
        };
        let mut words = Vec::new();
        if let Ok(stderr) = stderr.try_clone() {
            let _ = File::from(stderr).take(STDERR_CAP).read_to_end(&mut words);
        }
        LaunchError::Died { outcome, stderr: String::from_utf8_lossy(&words).trim().to_owned() }
    }
}

/// Answers the call that waits; true if it was the one for the guest's memory.
fn answer(listener: &Listener, file: &File) -> std::io::Result<bool> {
    let call = listener.next()?;
    if call.path.as_deref() == Some(argv::MEMORY) {
        return listener.give(&call, file.as_fd()).map(|()| true);
    }
    listener.pass(&call).map(|()| false)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = kill::kill(pidfd);
            let _ = jail::reap(pidfd);
        }
    }
}

/// Takes the status of a child that has ended or is being killed.
pub fn outcome(pidfd: &OwnedFd) -> Outcome {
    match jail::reap(pidfd) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(status), _) => Outcome::Exited(status),
            (None, Some(signal)) => Outcome::Signalled(signal),
            (None, None) => Outcome::Unknown,
        },
        Ok(None) | Err(_) => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process in the hypervisor's place")]
    fn a_guest_goes_on_only_when_it_is_told_to() {
        let mut program = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(program.id()).unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let mut running = Running { pidfd: Some(pidfd) };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stderr: OwnedFd = File::open("/dev/null").unwrap().into();
        std::io::Write::write_all(&mut &ours, &[1]).unwrap();
        running.await_leave(theirs.as_fd(), &stderr).unwrap();
        // Whoever would say so is gone.
        drop(ours);
        assert!(matches!(running.await_leave(theirs.as_fd(), &stderr), Err(LaunchError::Withdrawn)));
        // And the hypervisor, while it is waited for.
        let (_ours, theirs) = UnixStream::pair().unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(matches!(running.await_leave(theirs.as_fd(), &stderr), Err(LaunchError::Died { .. })));
        // Reaped already, by its handle.
        let _ = program.wait();
    }
}
