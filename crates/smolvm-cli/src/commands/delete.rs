//! `delete`: sandboxes by name, whatever state they are in.

use clap::Args;
use serde_json::json;
use smolvm::delete::{Deletion, IfMissing};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::display_bytes;

use super::Verbal;
use crate::args::Common;
use crate::context::Context;
use crate::exit;
use crate::output::{Format, Problem, Progress, Reply, tell};

/// Delete sandboxes and their disks, without asking
#[derive(Debug, Args)]
#[command(after_help = "\
A running one is ended first. For all that are stale or made up there is `smolvm cleanup`.

Example:
  smolvm delete build test --ignore-missing")]
pub(crate) struct Delete {
    /// The sandboxes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<SandboxId>,
    /// What is not there is as good as deleted
    #[arg(long)]
    ignore_missing: bool,
    #[command(flatten)]
    common: Common,
}

impl Verbal for Delete {
    const PATH: &'static str = "sandbox.delete";

    fn format(&self) -> Format {
        self.common.format()
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let if_missing = if self.ignore_missing { IfMissing::Ignore } else { IfMissing::Fail };
        let progress = Progress::of(self.format(), self.common.quiet, "Deleting");
        let deletion = vm.delete(&self.names, if_missing)?;
        drop(progress);
        if self.common.verbose {
            tell(&format!("{} of disk were freed", display_bytes(deletion.freed_bytes)));
        }
        let data = || {
            let deleted: Vec<&str> = deletion.deleted.iter().map(SandboxId::as_str).collect();
            let failed: Vec<_> = deletion
                .failed
                .iter()
                .map(|(id, e)| json!({"vm_id": id.as_str(), "error": e.one_line(), "code": e.code.as_str(), "recovery": e.recovery}))
                .collect();
            json!({"deleted": deleted, "failed": failed, "freed_bytes": deletion.freed_bytes})
        };
        let text = || deletion.deleted.iter().fold(String::new(), |text, id| text + id.as_str() + "\n");
        let reply = Reply::new(self.format(), data, text);
        Ok(reply.but(problem(deletion)))
    }
}

/// One failure is told as it is, several together.
fn problem(mut deletion: Deletion) -> Option<Problem> {
    let all = deletion.failed.len() + deletion.deleted.len();
    match deletion.failed.len() {
        0 => deletion.shared.map(Problem::from),
        1 => {
            let problem = Problem::from(deletion.failed.remove(0).1);
            let code = problem.code();
            Some(problem.exit_with(exit::plain(code)))
        }
        failed => {
            let missing = deletion.failed.iter().all(|(_, e)| e.code == ErrorCode::NotFound);
            let code = if missing { ErrorCode::NotFound } else { ErrorCode::PartialFailure };
            let hints: Vec<String> = deletion.failed.iter().filter_map(|(_, e)| e.recovery.clone()).collect();
            let mut problem = Problem::new(code, format!("{failed} of {all} sandboxes could not be deleted"));
            for (_, e) in &deletion.failed {
                problem = problem.because(&Told(e.one_line()));
            }
            let mut unique: Vec<String> = Vec::new();
            for hint in hints {
                if !unique.contains(&hint) {
                    unique.push(hint);
                }
            }
            Some(problem.hint(unique.join("\n")))
        }
    }
}

/// A sentence as a cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);
