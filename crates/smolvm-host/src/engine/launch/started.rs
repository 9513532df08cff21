//! A hypervisor that was started, and is not believed yet.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use smolvm_model::engine::GuestMemory;

use super::running::Running;
use super::{LaunchError, Launched, Outcome};
use crate::engine::migration;
use crate::engine::qmp::{Qmp, QmpStream};
use crate::jail::{Listener, Missing, Opens, inspect};

/// Loading takes about 10 ms.
const RESTORE_PATIENCE: Duration = Duration::from_secs(20);

/// A process of which nothing is known but who it is. It is killed and reaped unless it comes to be believed.
pub struct Started {
    pub(super) running: Running,
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    pub(super) exe: (u64, u64),
    pub(super) landlock_abi: Option<u32>,
    pub(super) missing: Vec<Missing>,
    pub(super) memory: GuestMemory,
    /// What it is given when it opens its guest's memory, and where that is heard.
    pub(super) file: Option<File>,
    pub(super) opens: Option<Listener>,
    pub(super) qmp: UnixStream,
    pub(super) agent: UnixStream,
    pub(super) console: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Started {
    /// Its pid as the caller sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its start time.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Waits until it has answered, looks at what is enforced on it, and only then gives a fork its guest.
    ///
    /// A byte on `word` says that a guest with a memory already may go on: all of that is there, and what else the host promised. An end of
    /// file says that it never may.
    pub fn believe(mut self, word: Option<BorrowedFd<'_>>) -> Result<Launched, LaunchError> {
        let opens = if self.opens.is_some() { Opens::Caller } else { Opens::Kernel };
        if let (Some(file), Some(listener)) = (&self.file, &self.opens) {
            self.running.hand_over(file, listener, &self.stderr)?;
        }
        // Never again will it open a file to read and write.
        drop(self.opens);
        self.running.negotiate(&self.qmp, &self.stderr)?;
        let mut enforced = inspect::read(Path::new("/proc"), self.pid, opens)?;
        if let Some(breach) = enforced.breach() {
            return Err(LaunchError::Breach(breach));
        }
        let expecting = match self.memory {
            GuestMemory::Anonymous | GuestMemory::Parked => None,
            GuestMemory::Forked | GuestMemory::Restored => Some(expect(&self.qmp)?),
        };
        // The machine reads nothing of its memory, and sends nothing, before it is loaded.
        word.map_or(Ok(()), |word| self.running.await_leave(word, &self.stderr))?;
        let qmp_stream = expecting.map_or_else(|| Ok(QmpStream::default()), restore)?;
        enforced.landlock_abi = self.landlock_abi;
        enforced.missing = self.missing;
        let Some(pidfd) = self.running.pidfd.take() else {
            return Err(LaunchError::Died { outcome: Outcome::Unknown, stderr: String::new() });
        };
        let Self { pid, start_ticks, exe, qmp, agent, console, stderr, .. } = self;
        Ok(Launched { pid, pidfd, start_ticks, exe, qmp, qmp_stream, agent, console, stderr, enforced })
    }
}

/// Opens a session in which the machine has been told of a template's devices.
fn expect(qmp: &UnixStream) -> Result<Qmp, LaunchError> {
    let socket = qmp.try_clone().map_err(|source| LaunchError::System { action: "share the control socket", source })?;
    let mut session = Qmp::resume(socket, RESTORE_PATIENCE);
    migration::expect(&mut session)?;
    Ok(session)
}

/// Loads them and lets the machine run; gives what was read beyond the last answer.
fn restore(mut session: Qmp) -> Result<QmpStream, LaunchError> {
    migration::restore(&mut session)?;
    Ok(session.into_stream())
}
