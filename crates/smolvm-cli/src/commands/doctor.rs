//! `doctor`: what this host can do, and what stands in the way.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value, json};
use smolvm::doctor::{CheckReport, CheckStatus, Tally};
use smolvm_model::error_code::ErrorCode;

use super::Verbal;
use crate::context::Context;
use crate::output::{Format, Paint, Problem, Progress, Reply, harmless};

/// Check this machine, and say how to mend what is wrong
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing without --fix. Sandboxes that lost their hypervisor are removed by `smolvm
cleanup`.

Examples:
  smolvm doctor
  smolvm doctor --fix

See also: smolvm cleanup --help, for removing stale sandboxes and orphans.")]
pub(crate) struct Doctor {
    /// Mend the ledger: drop rows that are no valid sandboxes, set a damaged one aside
    #[arg(long)]
    fix: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show what each check saw
    #[arg(short, long)]
    verbose: bool,
}

impl Verbal for Doctor {
    const PATH: &'static str = "doctor";

    fn format(&self) -> Format {
        Format::of(self.json)
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        let fixed = if self.fix { vm.doctor_fix()? } else { Vec::new() };
        let progress = Progress::of(self.format(), false, "Looking at this machine");
        let checks = vm.doctor();
        drop(progress);
        let data = || {
            let mut data = checks_data(&checks);
            if self.fix {
                data["fixed"] = json!(fixed);
            }
            data
        };
        let text = || {
            let fixed = fixed.iter().fold(String::new(), |text, what| format!("{text}fixed  {}\n", harmless(what)));
            fixed + &checks_text(&checks, self.verbose)
        };
        Ok(Reply::new(self.format(), data, text).but(failing(&checks, "the fix of each check is the command that mends it")))
    }
}

/// Checks as data; `setup --check` gives the same.
pub(super) fn checks_data(checks: &[CheckReport]) -> Value {
    json!({"checks": checks, "summary": Tally::of(checks)})
}

/// One line per check, and below it how to mend what is wrong.
pub(super) fn checks_text(checks: &[CheckReport], verbose: bool) -> String {
    let paint = Paint::of(&std::io::stdout());
    let widest = checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let word = match check.status {
            CheckStatus::Pass => paint.green("pass"),
            CheckStatus::Warn => paint.yellow("warn"),
            CheckStatus::Fail => paint.red("fail"),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{word}  {:<widest$}  {}", check.id, harmless(&check.summary));
        if verbose && !check.evidence.is_empty() {
            let _ = writeln!(text, "      {:widest$}  saw: {}", "", harmless(&check.evidence));
        }
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "      {:widest$}  fix: {}", "", harmless(fix));
        }
    }
    let tally = Tally::of(checks);
    let _ = writeln!(text, "{} pass, {} warn, {} fail", tally.pass, tally.warn, tally.fail);
    text
}

/// A failed check is a failure of the command.
pub(super) fn failing(checks: &[CheckReport], hint: &str) -> Option<Problem> {
    let failed: Vec<&str> = checks.iter().filter(|check| check.status == CheckStatus::Fail).map(|check| check.id.as_str()).collect();
    if failed.is_empty() {
        return None;
    }
    Some(
        Problem::new(ErrorCode::PartialFailure, format!("{} of {} checks fail: {}", failed.len(), checks.len(), failed.join(", ")))
            .hint(hint),
    )
}
