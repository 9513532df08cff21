//! `run`: a sandbox for one command, gone when the command is.

use std::cell::Cell;

use clap::Args;
use smolvm::exec::ExecIo;
use smolvm::run::{Keep, RunRequest};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use super::exec::{ExecOptions, captured, not_run, took, verdict};
use super::pool::{no_use, pool};
use super::streams::{Captured, Screen};
use super::{Verbal, image};
use crate::args::{Common, Origin, SandboxOptions, collect};
use crate::context::Context;
use crate::exit;
use crate::output::{Format, Problem, Progress, Reply, note, tell};
use crate::signals::SignalPipe;

/// Run a command in a new sandbox, and remove the sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
Its output is passed on as it is, and its exit status becomes smolvm's own. The sandbox is removed
however the command ends, also by Ctrl-C, SIGTERM and a lost terminal.

Examples:
  smolvm run debian -- python3 -c 'print(6 * 7)'
  smolvm run minimal --net none --timeout 10s -- sh -c 'uname -r'
  echo hello | smolvm run minimal -i -- cat
  smolvm run python:3.13-slim -- python -V")]
pub(crate) struct Run {
    /// The image: one that is here, or one of a registry, which is pulled if it is not here
    #[arg(value_name = "IMAGE")]
    image: ImageName,
    /// Run this before the command, instead of what the image says; empty for nothing
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    #[command(flatten)]
    options: ExecOptions,
    /// Leave the sandbox running afterwards
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    origin: Origin,
    #[command(flatten)]
    common: Common,
    /// The command and its arguments; without one what the image says
    #[arg(value_name = "CMD", trailing_var_arg = true)]
    command: Vec<String>,
    #[command(flatten)]
    sandbox: SandboxOptions,
}

impl Verbal for Run {
    const PATH: &'static str = "sandbox.run";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let config = context.config().map_err(not_run)?;
        let vm = context.open_with(&config).map_err(not_run)?;
        let signals = SignalPipe::ending()?;
        let stdin = self.options.interactive.then(rustix::stdio::stdin);
        let progress = Progress::of(self.format(), self.common.quiet, format!("Pulling {}", self.image));
        vm.pull_if_missing(&self.image, &mut |event| progress.say(image::line(&event))).map_err(|e| not_run(e.into()))?;
        drop(progress);
        let request = RunRequest {
            create: self.sandbox.request(self.image.clone(), &config),
            exec: self.options.spec(self.command.clone(), collect(&self.sandbox.env)),
            keep: if self.keep { Keep::Keep } else { Keep::Remove },
            entrypoint: self.entrypoint.as_ref().map(|program| Some(program.clone()).filter(|p| !p.is_empty()).into_iter().collect()),
            from: self.origin.wanted(),
            pool: pool(&config),
        };
        let ended = |e: smolvm::Error| not_run(e.into());
        if self.common.json {
            let (mut out, mut err) = (Captured::default(), Captured::default());
            let io = ExecIo { stdin, stdout: &mut out, stderr: &mut err, signals: Some(signals.fd()) };
            let outcome = vm.run(&request, io).map_err(ended)?;
            let reply = captured(outcome.id.as_str(), &request.exec, &outcome.exec, &out, &err);
            return Ok(match outcome.leftover {
                Some(e) => reply.but(Some(left_behind(&e, verdict(&request.exec, &outcome.exec).as_ref()))),
                None => reply,
            });
        }
        // Whatever the guest writes first takes the progress line away.
        let what = format!("Running \"{}\" in a new sandbox", self.command.first().map_or("", String::as_str));
        let progress = Cell::new(Some(Progress::of(self.format(), self.common.quiet, what)));
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let mut out = Screen::new(&stdout, &signals).after(|| drop(progress.take()));
        let mut err = Screen::new(&stderr, &signals).after(|| drop(progress.take()));
        let io = ExecIo { stdin, stdout: &mut out, stderr: &mut err, signals: Some(signals.fd()) };
        let outcome = vm.run(&request, io);
        drop(progress.take());
        let outcome = outcome.map_err(ended)?;
        if let Some(e) = outcome.pool.as_ref().filter(|_| !self.common.quiet) {
            tell(&no_use(e));
        }
        if self.common.verbose {
            tell(&format!("Sandbox \"{}\": {}", outcome.id, took(&outcome.exec)));
        }
        if self.keep && !self.common.quiet {
            note(&format!("Sandbox \"{0}\" still runs. Remove it with: smolvm delete {0}", outcome.id));
        }
        let problem = match (outcome.leftover, verdict(&request.exec, &outcome.exec)) {
            (Some(e), verdict) => Some(left_behind(&e, verdict.as_ref())),
            (None, verdict) => verdict,
        };
        Ok(Reply::nothing().but(problem))
    }
}

/// The command ran, but its sandbox could not be removed; the command's own failure keeps its status.
fn left_behind(e: &smolvm::Error, verdict: Option<&Problem>) -> Problem {
    let status = verdict.map_or(exit::FAILURE, Problem::exit);
    let recovery = e.recovery.clone().unwrap_or_else(|| "smolvm cleanup".to_owned());
    Problem::new(ErrorCode::PartialFailure, "the command ran, but its sandbox could not be removed")
        .because(e)
        .hint(recovery)
        .exit_with(status)
}
