//! `run`: a sandbox for one command, gone when the command is.

use std::time::Duration;

use smolvm_host::image::BuiltIn;
use smolvm_host::image::registry::RunConfig;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;

use crate::create::{CreateRequest, Made};
use crate::error::Error;
use crate::exec::{ExecIo, ExecOutcome, ExecSpec, MissingCwd};
use crate::installation::Smolvm;
use crate::pool::PoolWanted;
use crate::start::{StartFrom, StartOptions};

/// How long the removal waits for a monitor that is just writing down that its guest powered itself off.
const REMOVAL_WAIT: Duration = Duration::from_secs(20);

/// What becomes of the sandbox afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is removed, whatever happened.
    Remove,
    /// It stays, running.
    Keep,
}

/// What `run` is asked for.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The sandbox.
    pub create: CreateRequest,
    /// The command, without what the image puts before it.
    pub exec: ExecSpec,
    /// What is put before the command instead of what the image says.
    pub entrypoint: Option<Vec<String>>,
    /// What becomes of the sandbox.
    pub keep: Keep,
    /// Where the guest comes from.
    pub from: StartFrom,
    /// What waits in the pool, one of which is taken if it is what is asked for.
    pub pool: Vec<PoolWanted>,
}

/// What became of it.
#[derive(Debug)]
pub struct RunOutcome {
    /// The sandbox's id.
    pub id: SandboxId,
    /// How the command ended.
    pub exec: ExecOutcome,
    /// Why the sandbox could not be removed, if it could not.
    pub leftover: Option<Error>,
    /// Why the pool was of no use, if it was not.
    pub pool: Option<Error>,
}

impl Smolvm {
    /// Creates, starts, runs the command, removes. The sandbox is removed on every way out, also when a
    /// signal came; what a SIGKILL of this process leaves has the prefix that `cleanup` looks for.
    pub fn run(&self, request: &RunRequest, io: ExecIo<'_>) -> Result<RunOutcome, Error> {
        let signals = io.signals;
        let exec = ExecSpec { argv: self.command_of(request)?, missing_cwd: MissingCwd::Made, ..request.exec.clone() };
        let interrupted = || signals.is_some_and(has_signal);
        let mut pool = None;
        let taken = if interrupted() {
            None
        } else {
            self.take(&request.pool, &request.create, request.from).unwrap_or_else(|e| {
                pool = Some(e);
                None
            })
        };
        let made = taken.clone().map_or_else(|| self.create_recorded(&request.create), Ok)?;
        let id = made.id.clone();
        let start = || self.start_unless(&id, StartOptions { from: request.from, ..StartOptions::default() }, signals).map(drop);
        let result = if interrupted() {
            Err(stopped_early())
        } else {
            let up = if taken.is_some() { Ok(()) } else { start() };
            up.and_then(|()| {
                // A pool that cannot be filled is no reason not to run.
                pool = pool.take().or(self.refill_behind(&request.pool, &request.create.image).err());
                if interrupted() { Err(stopped_early()) } else { self.exec(&id, &exec, io) }
            })
        };
        let leftover = match request.keep {
            Keep::Keep => None,
            Keep::Remove => self.remove_after_run(&made),
        };
        match result {
            Ok(exec) => Ok(RunOutcome { id, exec, leftover, pool }),
            Err(e) => Err(match leftover {
                None => e,
                Some(left) => Error {
                    recovery: Some(format!("the sandbox could not be removed either ({}): smolvm delete {id}", left.one_line())),
                    ..e
                },
            }),
        }
    }

    /// The whole command: what the image says comes before it, or is it.
    fn command_of(&self, request: &RunRequest) -> Result<Vec<String>, Error> {
        let name = &request.create.image;
        // Those of this host say nothing, whether they are here or not.
        let own = match BuiltIn::by_name(name.as_str()) {
            Some(_) => RunConfig::default(),
            None => self.image(name)?.origin.map(|origin| origin.run).unwrap_or_default(),
        };
        let argv = own.command(request.entrypoint.as_deref(), &request.exec.argv);
        if argv.is_empty() {
            let what = format!("the image \"{name}\" does not say which command to run");
            return Err(Error::new(ErrorCode::UsageError, what).hint(format!("smolvm run {name} -- CMD")));
        }
        Ok(argv)
    }

    fn remove_after_run(&self, made: &Made) -> Option<Error> {
        match self.delete_made_within(made, REMOVAL_WAIT) {
            Ok(deletion) => deletion.failed.into_iter().next().map(|(_, e)| e).or(deletion.shared),
            Err(e) => Some(e),
        }
    }
}

pub(crate) fn has_signal(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec::try_from(Duration::ZERO).ok();
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], now.as_ref()).is_ok_and(|n| n > 0)
}

fn stopped_early() -> Error {
    Error::new(ErrorCode::Interrupted, "interrupted before the command ran")
}
