//! `create`: a sandbox that stays until somebody removes it.

use clap::Args;
use serde_json::json;
use smolvm::create::{CreateRequest, Made};
use smolvm::logs::LogKind;
use smolvm::start::{DEADLINE, StartOptions};
use smolvm::view::SandboxView;
use smolvm::{Error, Smolvm};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::ImageName;

use super::pool::{no_use, pool};
use super::start::started;
use super::{Verbal, image};
use crate::args::{Common, SandboxOptions, origin};
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note, tell};

/// Create a sandbox
#[derive(Debug, Args)]
#[command(after_help = "\
Prints its name. Nothing runs yet, unless --start is given.

Examples:
  smolvm create --name build --start
  id=$(smolvm create --image minimal --memory 256M --net none --quiet)")]
pub(crate) struct Create {
    /// The image it is made from: one that is here, or one of a registry, which is pulled if it is not here [default: debian]
    #[arg(long, value_name = "NAME")]
    image: Option<ImageName>,
    /// Start it too; if that fails, it is removed again
    #[arg(long)]
    start: bool,
    /// How long the start may take
    #[arg(long, value_name = "DURATION", requires = "start")]
    timeout: Option<Span>,
    /// Boot it, instead of forking a template
    #[arg(long, requires = "start")]
    cold: bool,
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sandbox: SandboxOptions,
}

impl Verbal for Create {
    const PATH: &'static str = "sandbox.create";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let config = context.config()?;
        let vm = context.open_with(&config)?;
        let progress = Progress::of(self.format(), self.common.quiet, "Creating a sandbox");
        let image = self.image.clone().unwrap_or_else(|| config.image());
        vm.pull_if_missing(&image, &mut |event| progress.say(image::line(&event)))?;
        let request = self.sandbox.request(image, &config);
        let pool = if self.start { pool(&config) } else { Vec::new() };
        let (taken, passed_over) = match vm.take(&pool, &request, origin(self.cold)) {
            Ok(taken) => (taken, None),
            Err(e) => (None, Some(e)),
        };
        let sandbox = match taken {
            Some(made) => vm.inspect(&made.id)?.sandbox,
            None => self.make(&vm, &request, &progress)?,
        };
        // A pool that cannot be filled is no reason to fail.
        if let Some(e) = passed_over.or(vm.refill_behind(&pool, &request.image).err()).filter(|_| !self.common.quiet && !self.common.json) {
            tell(&no_use(&e));
        }
        drop(progress);
        if self.common.verbose && self.start {
            started(&sandbox);
        } else if !self.common.quiet && !self.common.json && !self.start {
            note(&format!("Sandbox \"{0}\" is there. Start it with: smolvm start {0}", sandbox.id));
        }
        Ok(Reply::new(self.format(), || json!({"sandbox": sandbox}), || format!("{}\n", sandbox.id)))
    }
}

impl Create {
    fn make(&self, vm: &Smolvm, request: &CreateRequest, progress: &Progress) -> Result<SandboxView, Problem> {
        let (made, sandbox) = vm.create(request)?;
        if !self.start {
            return Ok(sandbox);
        }
        progress.say(format!("Starting \"{}\"", sandbox.id));
        self.start(vm, &made)
    }

    /// A sandbox that this very command made and could not start is of no use to anybody.
    fn start(&self, vm: &Smolvm, made: &Made) -> Result<SandboxView, Problem> {
        let id = &made.id;
        let deadline = self.timeout.map_or(DEADLINE, Span::duration);
        vm.start(id, StartOptions { accelerator: None, from: origin(self.cold), deadline }).map_err(|e| {
            let console = last_lines(vm, id);
            let leftover = match vm.delete_made(made) {
                Ok(deletion) => deletion.failed.into_iter().next().map(|(_, e)| e),
                Err(e) => Some(e),
            };
            if !self.common.json {
                for line in &console {
                    tell(&format!("console: {line}"));
                }
            }
            not_started(e, &console, leftover, id)
        })
    }
}

/// The failed start, with what the guest said last and what could not be taken back.
fn not_started(e: Error, console: &[String], leftover: Option<Error>, id: &SandboxId) -> Problem {
    let mut problem = Problem::from(e);
    if matches!(problem.code(), ErrorCode::Timeout | ErrorCode::GuestError) {
        // The usual hint is to look at the logs, and they went with the sandbox.
        problem = problem.hint("to look into it, create it without --start, then: smolvm start NAME; smolvm logs NAME; smolvm doctor");
    }
    if let Some(left) = leftover {
        problem = problem.hint(format!("the sandbox could not be removed either ({}): smolvm delete {id}", left.one_line()));
    }
    if console.is_empty() { problem } else { problem.with_details(json!({"console": console})) }
}

/// The end of the guest's console: it is gone with the sandbox.
fn last_lines(vm: &Smolvm, id: &SandboxId) -> Vec<String> {
    let bytes = vm.logs(id, LogKind::Console).unwrap_or_default();
    let text = Smolvm::harmless(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(10)).map(|line| line.chars().take(200).collect()).collect()
}
