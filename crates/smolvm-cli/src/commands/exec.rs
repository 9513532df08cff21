//! `exec`: one command in a running sandbox.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;
use smolvm::exec::{ExecIo, ExecOutcome, ExecSpec, MissingCwd};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::VarName;
use smolvm_proto::ExecErrorKind;

use super::Verbal;
use super::streams::{Captured, Screen};
use crate::args::{Common, collect, variable};
use crate::context::Context;
use crate::exit;
use crate::output::{Format, Problem, Reply, tell};
use crate::signals::SignalPipe;

/// Run a command in a running sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
Its output is passed on as it is, and its exit status becomes smolvm's own.

Examples:
  smolvm exec build -- git --version
  tar c src | smolvm exec -i -w /root build -- tar x
  smolvm exec -e LANG=C -u nobody --timeout 10s build id")]
pub(crate) struct Exec {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: SandboxId,
    #[command(flatten)]
    options: ExecOptions,
    /// A variable for the command; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(VarName, String)>,
    #[command(flatten)]
    common: Common,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// How a command runs; `exec` and `run` share it.
#[derive(Debug, Args)]
pub(super) struct ExecOptions {
    /// Pass standard input on
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Working directory in the guest [default: the image's, or /]
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// User in the guest, by name or number [default: the image's, or root]
    #[arg(short, long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// End the command after this time: 30s, 5m, 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(super) timeout: Option<Span>,
}

impl ExecOptions {
    /// What the library is asked for.
    pub(super) fn spec(&self, argv: Vec<String>, env: BTreeMap<VarName, String>) -> ExecSpec {
        ExecSpec {
            argv,
            env,
            cwd: self.workdir.clone(),
            missing_cwd: MissingCwd::Refused,
            user: self.user.clone(),
            timeout: self.timeout.map(Span::duration),
        }
    }
}

impl Verbal for Exec {
    const PATH: &'static str = "sandbox.exec";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let spec = self.options.spec(self.command, collect(&self.env));
        let signals = SignalPipe::ending()?;
        let stdin = self.options.interactive.then(rustix::stdio::stdin);
        let ended = |e: smolvm::Error| not_run(e.into());
        if self.common.json {
            let (mut out, mut err) = (Captured::default(), Captured::default());
            let io = ExecIo { stdin, stdout: &mut out, stderr: &mut err, signals: Some(signals.fd()) };
            let outcome = vm.exec(&self.name, &spec, io).map_err(ended)?;
            return Ok(captured(self.name.as_str(), &spec, &outcome, &out, &err));
        }
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        let (mut out, mut err) = (Screen::new(&stdout, &signals), Screen::new(&stderr, &signals));
        let io = ExecIo { stdin, stdout: &mut out, stderr: &mut err, signals: Some(signals.fd()) };
        let outcome = vm.exec(&self.name, &spec, io).map_err(ended)?;
        if self.common.verbose {
            tell(&took(&outcome));
        }
        Ok(Reply::nothing().but(verdict(&spec, &outcome)))
    }
}

/// smolvm failed before the command ran.
pub(super) fn not_run(problem: Problem) -> Problem {
    let status = exit::before_the_command(problem.code());
    problem.exit_with(status)
}

/// How long a command took, for `--verbose`.
pub(super) fn took(outcome: &ExecOutcome) -> String {
    format!("The command took {:.3} s.", outcome.duration.as_secs_f64())
}

/// The reply of `--json`: what the command wrote, as far as it was kept.
pub(super) fn captured(id: &str, spec: &ExecSpec, outcome: &ExecOutcome, out: &Captured, err: &Captured) -> Reply {
    let problem = verdict(spec, outcome);
    let status = problem.as_ref().map_or(exit::OK, Problem::exit);
    let data = json!({
        "id": id,
        "exit_code": status,
        "signal": outcome.signal,
        "stdout": out.text(),
        "stderr": err.text(),
        "truncated": out.is_truncated() || err.is_truncated(),
        "duration_ms": u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
    });
    Reply::new(Format::Json, || data, String::new).but(problem)
}

/// What a command's end means for ours; nothing when it succeeded.
pub(super) fn verdict(spec: &ExecSpec, outcome: &ExecOutcome) -> Option<Problem> {
    let command = spec.argv.first().map_or("", String::as_str);
    if let Some((kind, message)) = &outcome.error {
        return Some(never_ran(*kind, command, message));
    }
    if outcome.timed_out {
        let limit = spec.timeout.unwrap_or_default().as_secs();
        // Ended by the guest it has a signal or a status; without either the guest never answered.
        let answered = outcome.code.is_some() || outcome.signal.is_some();
        let (message, way) = if answered {
            (format!("\"{command}\" was ended after {limit} s"), "give it more time with --timeout")
        } else {
            (
                format!("\"{command}\" did not end within {limit} s, and the guest does not answer"),
                "restart the sandbox, or give it more time with --timeout",
            )
        };
        return Some(Problem::new(ErrorCode::Timeout, message).hint(way));
    }
    // The guest's own word comes first: a command may survive the signal that was passed on.
    match (outcome.code, outcome.signal, outcome.interrupted) {
        (Some(0), _, _) => None,
        (Some(code), _, _) => {
            Some(guest_error(format!("\"{command}\" exited with status {code}"), u8::try_from(code).unwrap_or(exit::FAILURE)))
        }
        (None, Some(signal), _) => {
            let status = u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(exit::FAILURE);
            Some(guest_error(format!("\"{command}\" was ended by signal {signal}"), status))
        }
        (None, None, Some(signal)) => {
            Some(Problem::new(ErrorCode::Interrupted, format!("interrupted by signal {signal}; \"{command}\" did not end by itself")))
        }
        (None, None, None) => Some(not_run(Problem::new(ErrorCode::GuestError, format!("how \"{command}\" ended is not known")))),
    }
}

fn guest_error(message: String, status: u8) -> Problem {
    Problem::new(ErrorCode::GuestError, message).exit_with(status).silently()
}

fn never_ran(kind: ExecErrorKind, command: &str, message: &str) -> Problem {
    // The guest's agent names the command in most of its messages.
    let text = if message.starts_with(command) { message.to_owned() } else { format!("\"{command}\" did not run: {message}") };
    let problem = |code, status| Problem::new(code, text).exit_with(status);
    match kind {
        ExecErrorKind::NotFound => problem(ErrorCode::NotFound, exit::NOT_FOUND),
        ExecErrorKind::NotExecutable => problem(ErrorCode::GuestError, exit::NOT_EXECUTABLE),
        ExecErrorKind::BadCwd | ExecErrorKind::BadUser | ExecErrorKind::BadRequest | ExecErrorKind::SpawnFailed => {
            problem(ErrorCode::GuestError, exit::NOT_RUN)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(outcome: &ExecOutcome) -> (u8, Option<&'static str>) {
        let spec = ExecSpec { argv: vec!["cmd".to_owned()], ..ExecSpec::default() };
        verdict(&spec, outcome).map_or((0, None), |p| (p.exit(), Some(p.code().as_str())))
    }

    #[test]
    fn every_end_has_its_status() {
        let end = ExecOutcome::default;
        let never = |kind| ExecOutcome { error: Some((kind, "why".to_owned())), ..end() };
        let table = [
            (ExecOutcome { code: Some(0), ..end() }, 0, None),
            (ExecOutcome { code: Some(0), interrupted: Some(2), ..end() }, 0, None),
            (ExecOutcome { code: Some(37), ..end() }, 37, Some("guest_error")),
            (ExecOutcome { code: Some(255), ..end() }, 255, Some("guest_error")),
            (ExecOutcome { signal: Some(9), ..end() }, 137, Some("guest_error")),
            (ExecOutcome { signal: Some(2), interrupted: Some(2), ..end() }, 130, Some("guest_error")),
            (ExecOutcome { signal: Some(9), timed_out: true, ..end() }, 124, Some("timeout")),
            (ExecOutcome { timed_out: true, ..end() }, 124, Some("timeout")),
            (ExecOutcome { signal: Some(i32::MAX), ..end() }, 1, Some("guest_error")),
            (ExecOutcome { signal: Some(-1), ..end() }, 1, Some("guest_error")),
            (ExecOutcome { interrupted: Some(15), ..end() }, 130, Some("interrupted")),
            (never(ExecErrorKind::NotFound), 127, Some("not_found")),
            (never(ExecErrorKind::NotExecutable), 126, Some("guest_error")),
            (never(ExecErrorKind::BadUser), 125, Some("guest_error")),
            (end(), 125, Some("guest_error")),
        ];
        for (outcome, code, word) in table {
            assert_eq!(status(&outcome), (code, word), "{outcome:?}");
        }
    }

    #[test]
    fn what_fails_before_the_command_is_125() {
        for (code, want) in
            [(ErrorCode::NotFound, 125), (ErrorCode::Timeout, 125), (ErrorCode::Interrupted, 130), (ErrorCode::UsageError, 2)]
        {
            assert_eq!(not_run(Problem::new(code, "x")).exit(), want);
        }
    }
}
