//! `exec`: one command in a running sandbox, its streams connected to the caller's.
//!
//! ```text
//!   stdin ──► window ──► frames ─┐                    ┌─► stdout      data is written out before it is
//!   signals ──► StreamControl ───┤  monitor ──► agent ├─► stderr      credited, so a slow reader slows the
//!                                └────────────────────┴─► exit        guest's writer and nothing else
//! ```

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod stream;

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smolvm_host::effect::perform;
use smolvm_host::fsx::FsError;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::spec::{Spec, VarName};
use smolvm_model::state::{Admission, Request};
use smolvm_proto::{ExecErrorKind, ExecRequest};

use crate::error::Error;
use crate::installation::Smolvm;
use crate::paths::ENV;
use crate::session::Session;

use self::stream::Exec;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// Command and arguments.
    pub argv: Vec<String>,
    /// Variables, stronger than the sandbox's own.
    pub env: BTreeMap<VarName, String>,
    /// Working directory; the image's without one, or `/`.
    pub cwd: Option<String>,
    /// What becomes of a working directory that is not there.
    pub missing_cwd: MissingCwd,
    /// User in the guest; the image's without one, or root.
    pub user: Option<String>,
    /// The command is killed after this time.
    pub timeout: Option<Duration>,
}

/// What becomes of a working directory that is not there. One that the image names is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingCwd {
    /// The command does not run.
    #[default]
    Refused,
    /// It is made, as root's.
    Made,
}

/// The caller's ends.
pub struct ExecIo<'a> {
    /// Passed on to the command; without it the command reads nothing.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Takes the command's standard output.
    pub stdout: &'a mut dyn Write,
    /// Takes its standard error.
    pub stderr: &'a mut dyn Write,
    /// A pipe on which each byte is the number of a signal this process got.
    pub signals: Option<BorrowedFd<'a>>,
}

impl std::fmt::Debug for ExecIo<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExecIo").field("stdin", &self.stdin).field("signals", &self.signals).finish_non_exhaustive()
    }
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the time limit ended it; with neither status nor signal the guest never said so.
    pub timed_out: bool,
    /// Why it never ran.
    pub error: Option<(ExecErrorKind, String)>,
    /// The signal that this process got meanwhile, if one.
    pub interrupted: Option<i32>,
    /// How long it took.
    pub duration: Duration,
}

impl Smolvm {
    /// Runs a command in a running sandbox to its end.
    pub fn exec(&self, id: &SandboxId, spec: &ExecSpec, io: ExecIo<'_>) -> Result<ExecOutcome, Error> {
        let (session, manners) = match self.quick_session(id) {
            Some(ready) => ready,
            None => self.judged_session(id)?,
        };
        exec_over(session, manners, id, spec, io).map_err(|e| match e.code {
            // The ledger knows more of it than its monitor: why it stands still, and the way out.
            ErrorCode::InvalidState => self.judged_session(id).err().unwrap_or(e),
            _ => e,
        })
    }
}

impl Smolvm {
    /// A monitor that answers is proof enough that its sandbox runs; the ledger is not opened, which
    /// would cost as much as the rest of the host's side together.
    fn quick_session(&self, id: &SandboxId) -> Option<(Session, Manners)> {
        let text = std::fs::read(self.paths().run_dir(id).join(ENV)).ok()?;
        // One of an older smolvm has the variables alone, and is none to this: then the ledger is asked.
        let manners = serde_json::from_slice(&text).ok()?;
        Some((Session::connect(self, id).ok()?, manners))
    }

    /// The same by way of the ledger, which knows why a sandbox cannot be reached.
    fn judged_session(&self, id: &SandboxId) -> Result<(Session, Manners), Error> {
        let missing = || Error::no_such_sandbox(id);
        let store = self.store_if_any()?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        drop(store);
        match self.admit(&record, &entries, Request::Exec)? {
            Admission::Go => {}
            Admission::Refused(refusal) => return Err(Error::refused_by_state(id, refusal)),
            Admission::AlreadySo | Admission::ReclaimThenGo => {
                return Err(Error::new(ErrorCode::Internal, "an exec was judged as something else"));
            }
        }
        Ok((Session::connect(self, id)?, Manners::of(&record.spec)))
    }

    /// Leaves what commands are given beside the monitor's socket, for [`Self::quick_session`].
    pub(crate) fn write_env(&self, id: &SandboxId, spec: &Spec) -> Result<(), Error> {
        let path = self.paths().run_dir(id).join(ENV);
        let text = serde_json::to_vec(&Manners::of(spec)).unwrap_or_default();
        // Not synced: it goes with the run, and a reboot ends the run.
        perform(Effect::EnvFile, |_| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)
                .map_err(FsError::on("make", &path))?;
            Ok(file.write_all(&text).map_err(FsError::on("write", &path))?)
        })
    }
}

/// What a sandbox's commands are given unless they say otherwise.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manners {
    env: BTreeMap<String, String>,
    workdir: Option<String>,
    user: Option<String>,
}

impl Manners {
    fn of(spec: &Spec) -> Self {
        let env = spec.env.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        Self { env, workdir: spec.workdir.clone(), user: spec.user.clone() }
    }
}

/// Runs the command over a connection that is there; what the command does not say is as the sandbox has it.
fn exec_over(
    session: Session,
    Manners { mut env, workdir, user }: Manners,
    id: &SandboxId,
    spec: &ExecSpec,
    io: ExecIo<'_>,
) -> Result<ExecOutcome, Error> {
    env.extend(spec.env.iter().map(|(k, v)| (k.to_string(), v.clone())));
    let request = ExecRequest {
        argv: spec.argv.clone(),
        env,
        make_cwd: spec.missing_cwd == MissingCwd::Made || (spec.cwd.is_none() && workdir.is_some()),
        cwd: spec.cwd.clone().or(workdir),
        user: spec.user.clone().or(user),
        timeout_ms: spec.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        stdin: io.stdin.is_some(),
    };
    let payload = request.to_payload().map_err(|e| {
        Error::new(ErrorCode::UsageError, "the command cannot be sent")
            .hint("pass large input on standard input: smolvm exec -i")
            .because(e)
    })?;
    Exec::new(session, io, spec.timeout).run(payload).map_err(|e| e.about(id))
}

/// The status a shell would report: the command's own, or 128 and the signal's number.
pub fn shell_status(outcome: &ExecOutcome) -> Option<i32> {
    outcome.code.or_else(|| outcome.signal.and_then(|s| s.checked_add(128)))
}
