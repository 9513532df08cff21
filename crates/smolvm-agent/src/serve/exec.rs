//! One running command and its stream.
//!
//! ```text
//!   Running ──main process ends──► Ending ──both pipes at their end──────────────► Exit is sent
//!                                    └──────pipes dry, GRACE passed──────────────► Exit is sent
//! ```
//!
//! What the main process wrote is in the pipes before it ends, so it is never lost. A background
//! child that still holds a pipe gets [`GRACE`] to say something more; then the exec is over, the
//! child goes on, and what it writes from then on is read and thrown away: closing the pipe would
//! kill a daemon at its next line of log.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitStatus, waitid};
use smolvm_proto::{Channel, ExecErrorKind, ExecExit, ExecRequest};

use super::input::Input;
use super::outbox::Outbox;
use super::output::{Output, Writer};
use crate::command::{Command, explain};
use crate::sys::spawn::{Failure, Plan, Role, Spawner, Stage};
use crate::users::{Account, Users};

/// How long a pipe may stay open after the main process has ended.
pub(crate) const GRACE: Duration = Duration::from_millis(200);

/// How often the agent waits for a command that may be ending: for the other pipe, and for the end itself.
const MOST_WAITS: u8 = 3;

/// What starting a command takes from the agent.
pub(crate) struct Starter {
    spawner: Spawner,
    users: Users,
    null: OwnedFd,
    /// For the output of the next command.
    pipes: Vec<OutputPipe>,
    /// Whether what can be made and learned ahead was, since the last command.
    is_ready: bool,
}

/// What the agent reads, and what the command writes.
struct OutputPipe {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl OutputPipe {
    fn make() -> Result<Self, Errno> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        // Only our end must not block: the flag belongs to an end, and programs do not expect it on theirs.
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok(Self { ours, theirs })
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl From<WaitStatus> for Ending {
    fn from(status: WaitStatus) -> Self {
        Self { code: status.exit_status(), signal: status.terminating_signal() }
    }
}

/// A command that runs or is ending.
pub(crate) struct Exec {
    pub(crate) stream: u32,
    pub(crate) input: Input,
    pub(crate) outputs: [Output; 2],
    pid: Pid,
    deadline: Option<Instant>,
    timed_out: bool,
    /// How often the agent waited for nothing but its end.
    waits: u8,
    ended: Option<(Ending, Instant)>,
}

impl Starter {
    /// Opens what every command needs.
    pub(crate) fn new() -> Result<Self, rustix::io::Errno> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
        Ok(Self { spawner: Spawner::new(), users: Users::default(), null, pipes: Vec::new(), is_ready: false })
    }

    /// Makes what the next command needs, whatever it is, and learns who root is. For when there is nothing else to do: the command then does not
    /// wait for it, nor does the first one of a copy of this guest, for which the code would have to be translated.
    pub(crate) fn get_ready(&mut self) {
        if std::mem::replace(&mut self.is_ready, true) {
            return;
        }
        while self.pipes.len() < 2 {
            // Whoever needs one and gets none says so.
            let Ok(pipe) = OutputPipe::make() else { return };
            self.pipes.push(pipe);
        }
        // It is looked at again, in case it changes.
        let _ = self.users.resolve(None);
    }

    /// The guest is another one than it was, whose first command is to find what is done ahead done in this one.
    pub(crate) fn begin_anew(&mut self) {
        self.is_ready = false;
    }

    fn output_pipe(&mut self) -> Result<OutputPipe, Errno> {
        self.pipes.pop().map_or_else(OutputPipe::make, Ok)
    }

    /// Runs `true`, should the image have it.
    ///
    /// The first command of a fresh guest pays for everything that is met for the first time: the way of an `execve`
    /// through the kernel, the shell's or the C library's pages. Paid here, it goes on while the host is still
    /// writing down that the guest is ready. It is reaped like any orphan, and how it ends is nobody's business.
    pub(crate) fn warm_up(&mut self) {
        let _ = self.rehearse(&["true".to_owned()]);
    }

    /// Runs a command from and to nowhere.
    pub(crate) fn rehearse(&mut self, argv: &[String]) -> Option<Pid> {
        let request = ExecRequest { argv: argv.to_vec(), ..ExecRequest::default() };
        request.validate().ok()?;
        let account = self.users.resolve(None).ok()?;
        let Command { candidates, argv, env, cwd } = Command::prepare(&request, &account);
        let null = self.null.as_fd();
        let plan = Plan { candidates: &candidates, argv: &argv, env: &env, cwd: &cwd, ids: None, stdio: [null; 3], role: Role::Command };
        self.spawner.spawn(&plan).ok()
    }

    /// Starts an init, with the console for its words.
    pub(crate) fn init(&mut self, program: &str) -> Result<Pid, Failure> {
        let request = ExecRequest { argv: vec![program.to_owned()], env: init_env(), ..ExecRequest::default() };
        let account = Account { name: "root".to_owned(), home: "/root".to_owned(), shell: "/bin/sh".to_owned(), ids: None };
        let Command { candidates, argv, env, cwd } = Command::prepare(&request, &account);
        let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, rustix::fs::Mode::empty()).ok();
        let stdio = [console.as_ref().unwrap_or(&self.null).as_fd(); 3];
        self.spawner.spawn(&Plan { candidates: &candidates, argv: &argv, env: &env, cwd: &cwd, ids: None, stdio, role: Role::First })
    }

    /// Starts the command of a request, or says why it never ran.
    pub(crate) fn start(&mut self, stream: u32, request: &ExecRequest, now: Instant) -> Result<Exec, ExecExit> {
        self.is_ready = false;
        request.validate().map_err(|e| ExecExit::failed(ExecErrorKind::BadRequest, e.to_string()))?;
        let account = self.users.resolve(request.user.as_deref()).map_err(|e| ExecExit::failed(ExecErrorKind::BadUser, e.to_string()))?;
        let command = Command::prepare(request, &account);
        let no_pipe = |e: rustix::io::Errno| ExecExit::failed(ExecErrorKind::SpawnFailed, format!("pipe: {e}"));
        let (stdout, stderr) = (self.output_pipe().map_err(no_pipe)?, self.output_pipe().map_err(no_pipe)?);
        let (stdin_end, stdin) = if request.stdin {
            let (end, stdin) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
            rustix::io::ioctl_fionbio(&stdin, true).map_err(no_pipe)?;
            (Some(end), Some(stdin))
        } else {
            (None, None)
        };
        let plan = Plan {
            candidates: &command.candidates,
            argv: &command.argv,
            env: &command.env,
            cwd: &command.cwd,
            ids: account.ids.as_ref(),
            stdio: [stdin_end.as_ref().unwrap_or(&self.null).as_fd(), stdout.theirs.as_fd(), stderr.theirs.as_fd()],
            role: Role::Command,
        };
        let pid = match self.spawner.spawn(&plan) {
            Err(Failure { stage: Stage::Cwd, errno: Errno::NOENT }) if request.make_cwd && make(request.cwd.as_deref()) => {
                self.spawner.spawn(&plan)
            }
            tried => tried,
        };
        let pid = pid.map_err(|failure| explain(request, failure))?;
        Ok(Exec {
            stream,
            input: Input::new(stdin),
            outputs: [Output::new(Channel::Stdout, stdout.ours), Output::new(Channel::Stderr, stderr.ours)],
            pid,
            deadline: request.timeout_ms.and_then(|ms| now.checked_add(Duration::from_millis(ms))),
            timed_out: false,
            waits: 0,
            ended: None,
        })
    }
}

/// By this an init knows that the kernel and its devices are somebody else's to set up.
fn init_env() -> BTreeMap<String, String> {
    BTreeMap::from([("container".to_owned(), "smolvm".to_owned())])
}

/// Makes a working directory, with all that leads to it. False if that cannot be done: then the command says so.
fn make(directory: Option<&str>) -> bool {
    let made = directory.map(|directory| std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory));
    made.is_some_and(|made| made.is_ok())
}

impl Exec {
    /// The main process, which leads a process group.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the main process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether a pipe was closed, which mostly means that the process is on its way out. Said a few times and no more:
    /// there are commands that close one and go on.
    pub(crate) fn may_be_ending(&mut self) -> bool {
        let ending = self.ended.is_none() && self.waits < MOST_WAITS && self.outputs.iter().any(Output::is_closed);
        self.waits += u8::from(ending);
        ending
    }

    /// What is still open of a command that has closed a pipe.
    pub(crate) fn last_pipes(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let closing = self.outputs.iter().any(Output::is_closed);
        self.outputs.iter().filter(move |_| closing).filter_map(Output::wants)
    }

    /// Looks into the other pipe, whatever poll said of it before.
    pub(crate) fn look_for_the_end(&mut self, outbox: &mut Outbox) {
        if self.outputs.iter().any(Output::is_closed) {
            for output in &mut self.outputs {
                output.set_ready(true);
            }
            self.pump(outbox);
        }
    }

    /// Looks whether a main process that has closed a pipe has ended. It stays to be reaped, which takes the kernel as long again; whoever waits
    /// for its answer need not wait for that.
    pub(crate) fn look_whether_ended(&mut self, now: Instant) {
        if self.has_ended() || !self.outputs.iter().any(Output::is_closed) {
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Ok(Some(status)) = waitid(WaitId::Pid(self.pid), options) {
            self.end(Ending { code: status.exit_status(), signal: status.terminating_signal() }, now);
        }
    }

    /// Notes the end of the main process.
    pub(crate) fn end(&mut self, ending: Ending, now: Instant) {
        self.ended = Some((ending, now));
        for output in &mut self.outputs {
            output.set_ready(true);
        }
    }

    /// Sends a signal to the process group. After the main process its number may be somebody else's.
    pub(crate) fn signal(&self, number: i32) {
        if self.ended.is_none() {
            crate::sys::kill::group(self.pid, number);
        }
    }

    /// When this exec wants to be looked at again, whatever its pipes do.
    ///
    /// Past its grace it waits only for the host to take what is in the pipes.
    pub(crate) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        match self.ended {
            Some((_, at)) => Some(at + GRACE).filter(|at| *at > now),
            None => self.deadline.filter(|_| !self.timed_out),
        }
    }

    /// Enforces the time limit.
    pub(crate) fn check_deadline(&mut self, now: Instant) {
        if self.ended.is_none() && !self.timed_out && self.deadline.is_some_and(|at| at <= now) {
            self.timed_out = true;
            self.signal(libc::SIGKILL);
        }
    }

    /// Moves output to the outbox.
    pub(crate) fn pump(&mut self, outbox: &mut Outbox) {
        let writer = if self.has_ended() { Writer::Ended } else { Writer::Alive };
        for output in &mut self.outputs {
            output.pump(self.stream, outbox, writer);
        }
    }

    /// The result, once there is nothing more to wait for.
    pub(crate) fn result(&self, now: Instant) -> Option<ExecExit> {
        let (Ending { code, signal }, at) = self.ended?;
        let closed = self.outputs.iter().all(Output::is_closed);
        let waited = || now >= at + GRACE && self.outputs.iter().all(Output::is_dry);
        if !closed && !waited() {
            return None;
        }
        Some(ExecExit { code, signal, timed_out: self.timed_out, error: None })
    }

    /// The pipes that somebody in the background may still write to.
    pub(crate) fn into_leftovers(self) -> impl Iterator<Item = OwnedFd> {
        self.outputs.into_iter().filter_map(Output::into_pipe)
    }
}
