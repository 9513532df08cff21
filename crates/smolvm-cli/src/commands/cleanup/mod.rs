//! `cleanup`: removes what is stale, made up or orphaned, without a trace.
//!
//! ```text
//!   usage ─► refuse ─► plan (changes nothing) ─┬─ --dry-run ─► shown, with its fingerprint
//!                                              ├─ --apply, and not the plan in the file ─► refused
//!                                              ├─ nothing to do ─► one sentence
//!                                              └─► ask ─ yes ─► apply exactly that plan ─► report
//!                                                   ├─ anything else ─► "Aborted.", 0
//!                                                   └─ Ctrl-C ─► 130, nothing deleted
//! ```

mod data;
mod file;
mod prompt;
mod text;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use smolvm::Smolvm;
use smolvm::cleanup::{CleanupPlan, CleanupReport};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::{IdPrefix, IdPrefixError};
use smolvm_model::select::Scope;

use self::file::PlanFile;
use self::prompt::Answer;
use super::Verbal;
use crate::context::Context;
use crate::exit;
use crate::output::{Format, Problem, Progress, Reply, ask_on_stderr, emit, to_stdout};
use crate::signals::SignalPipe;

/// Under either of its names.
pub(crate) const ABOUT: &str = "Remove stale and auto-created sandboxes, and everything that belongs to them";

/// What `cleanup` is told.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line, each of its own")]
#[command(about = ABOUT, after_help = "\
Targets are sandboxes whose name starts with the prefix, whose hypervisor is gone, whose time to
live has passed, or whose creation or deletion was interrupted; running ones among them too.
Processes, devices, rules, files and records go together, and the host is looked at again
afterwards.

Examples:
  smolvm cleanup --dry-run
  smolvm cleanup --force
  smolvm cleanup --all --force --json
  smolvm cleanup --dry-run --json > plan.json    and, once somebody has read it:
  smolvm cleanup --apply plan.json --force

See also: smolvm doctor, which tells what is stale or orphaned and what keeps it from being removed.")]
pub(crate) struct Cleanup {
    /// Target every sandbox, not just stale or auto-created ones
    #[arg(long, conflicts_with = "prefix")]
    all: bool,
    /// Target auto-created sandboxes whose id starts with this [default: vm-]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Print the targets and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do exactly what a plan says that --dry-run --json printed, or nothing if the host has changed since
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "prefix", "dry_run"], value_hint = clap::ValueHint::FilePath)]
    apply: Option<PathBuf>,
    /// Do not ask. Required without a terminal on standard input, and with --json
    #[arg(short, long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Verbal for Cleanup {
    const PATH: &'static str = "cleanup";

    fn format(&self) -> Format {
        Format::of(self.json)
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let scope = self.scope()?;
        self.refuse_to_guess()?;
        let result = self.plan_file().and_then(|file| context.open_unsettled().and_then(|vm| self.clean(&vm, &scope, file.as_ref())));
        result.map_err(|problem| {
            let status = exit::plain(problem.code());
            problem.exit_with(status)
        })
    }
}

impl Cleanup {
    fn scope(&self) -> Result<Scope, Problem> {
        let Some(text) = &self.prefix else {
            return Ok(if self.all { Scope::All } else { Scope::Prefix(IdPrefix::default()) });
        };
        text.parse().map(Scope::Prefix).map_err(|e| {
            let problem = Problem::new(ErrorCode::UsageError, format!("{text:?} is no prefix of sandboxes: {e}"));
            match e {
                IdPrefixError::Empty => problem.hint("every sandbox is what --all means: smolvm cleanup --all"),
                IdPrefixError::NoSuchId(_) => problem.hint("names consist of a-z, 0-9 and -; for every sandbox: smolvm cleanup --all"),
            }
        })
    }

    fn plan_file(&self) -> Result<Option<PlanFile>, Problem> {
        self.apply.as_deref().map(PlanFile::read).transpose()
    }

    /// Nobody is there to be asked, and nobody said it need not be asked.
    fn refuse_to_guess(&self) -> Result<(), Problem> {
        if self.force || self.dry_run {
            return Ok(());
        }
        let why = match (self.json, std::io::stdin().is_terminal()) {
            (true, _) => "with --json nobody is asked",
            (false, false) => "standard input is not a terminal, so nobody can be asked",
            (false, true) => return Ok(()),
        };
        Err(Problem::new(ErrorCode::Refused, format!("cleanup deletes sandboxes, and {why}: add --force"))
            .hint("smolvm cleanup --dry-run   shows what would go\nsmolvm cleanup --force     removes it without asking"))
    }

    fn clean(&self, vm: &Smolvm, scope: &Scope, file: Option<&PlanFile>) -> Result<Reply, Problem> {
        let signals = SignalPipe::interrupt()?;
        let asks = !self.force && !self.dry_run;
        if !asks {
            end_on_interrupt(signals.clone(), self.format());
        }
        let progress = Progress::of(self.format(), false, "Looking for what is left behind");
        let _pool = (!self.dry_run).then(|| vm.hold_pool());
        let plan = vm.cleanup_plan(file.map_or(scope, PlanFile::scope))?;
        drop(progress);
        if self.dry_run {
            return Ok(self.planned(vm, &plan));
        }
        let mark = match file {
            Some(file) => file.hold_against(vm, &plan).map(|()| data::plan_mark(vm, &plan))?,
            None => serde_json::Value::Null,
        };
        if asks && plan.has_work() {
            to_stdout([text::findings(&plan).as_str()])?;
            match prompt::ask(&plan, &signals)? {
                Answer::Yes => end_on_interrupt(signals, self.format()),
                Answer::No => return Ok(Reply::new(self.format(), || serde_json::Value::Null, || "Aborted.\n".to_owned())),
                Answer::Interrupted => return Err(interrupted("interrupted; nothing was deleted")),
            }
        }
        let found = if asks { None } else { Some(plan.clone()) };
        let progress = Progress::of(self.format(), false, format!("Removing {}", text::what(&plan)));
        let report = vm.cleanup_apply(plan)?;
        drop(progress);
        Ok(self.done(found.as_ref(), &report, &mark))
    }

    fn planned(&self, vm: &Smolvm, plan: &CleanupPlan) -> Reply {
        let failed = plan.failed.len();
        let data = || data::of_plan(plan, &data::plan_mark(vm, plan));
        Reply::new(self.format(), data, || text::plan(plan)).but(judged(failed, plan.targets.len()))
    }

    fn done(&self, found: Option<&CleanupPlan>, report: &CleanupReport, mark: &serde_json::Value) -> Reply {
        let text = || found.map(text::findings).unwrap_or_default() + &text::report(report);
        Reply::new(self.format(), || data::of_report(report, mark), text).but(judged(report.failed.len(), report.targets.len()))
    }
}

/// Whether anything is to be deleted.
trait Work {
    fn has_work(&self) -> bool;
}

impl Work for CleanupPlan {
    fn has_work(&self) -> bool {
        !self.targets.is_empty() || self.orphans.iter().any(|orphan| orphan.remove)
    }
}

fn judged(failed: usize, targets: usize) -> Option<Problem> {
    let things = |n: usize| if n == 1 { "1 thing".to_owned() } else { format!("{n} things") };
    (failed > 0).then(|| {
        Problem::new(ErrorCode::PartialFailure, format!("{} could not be cleaned up ({targets} targets)", things(failed)))
            .hint("when the cause is gone, run it again: it goes on where it stopped\nsmolvm doctor tells more")
    })
}

fn interrupted(message: &str) -> Problem {
    Problem::new(ErrorCode::Interrupted, message)
}

/// While the host is changed, Ctrl-C ends at once: the next run goes on where this one stopped.
#[expect(clippy::exit, reason = "the working thread cannot be asked to stop, and need not be")]
fn end_on_interrupt(signals: SignalPipe, format: Format) {
    signals.then(move || {
        let problem = interrupted("interrupted; what is left is found by the next cleanup").hint("smolvm cleanup");
        std::process::exit(i32::from(emit(Cleanup::PATH, format, Err(problem))));
    });
}

/// Tells the person at the terminal what the question is about, if stdout goes elsewhere.
fn repeat_targets(plan: &CleanupPlan) {
    if !std::io::stdout().is_terminal() {
        ask_on_stderr(&text::findings(plan));
    }
}
