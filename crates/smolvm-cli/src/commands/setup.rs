//! `setup`: prepares this machine.

use clap::Args;
use serde_json::json;
use smolvm::Smolvm;
use smolvm::setup::{Packages, SetupEvent, SetupRequest, StepOutcome, Templates};
use smolvm_model::quantity::display_bytes;
use smolvm_model::spec::ImageName;

use super::Verbal;
use super::doctor::{checks_data, checks_text, failing};
use crate::context::Context;
use crate::output::{Format, Problem, Progress, Reply, note};

/// Prepare this machine: hypervisor, kernel, images
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line, each of its own")]
#[command(after_help = "\
What is there is kept; interrupted, it goes on where it was. Root gets missing packages installed
through apt, everybody else is told the command.

Examples:
  smolvm setup
  smolvm setup --image minimal
  smolvm setup --check")]
pub(crate) struct Setup {
    /// Only this image: debian or minimal; may be repeated
    #[arg(long, value_name = "NAME")]
    image: Vec<ImageName>,
    /// Only tell what is missing
    #[arg(long, conflicts_with_all = ["image", "remove", "no_install", "no_template"])]
    check: bool,
    /// Take away what setup made; packages of the system stay
    #[arg(long, conflicts_with_all = ["image", "no_install", "no_template"])]
    remove: bool,
    /// Install no packages of the system: name them and stop
    #[arg(long)]
    no_install: bool,
    /// Make no template: the first start of each image then boots
    #[arg(long)]
    no_template: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No notes and no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Verbal for Setup {
    const PATH: &'static str = "setup";

    fn format(&self) -> Format {
        Format::of(self.json)
    }

    fn run(self, context: &Context) -> Result<Reply, Problem> {
        let vm = context.open_unsettled()?;
        match (self.check, self.remove) {
            (true, _) => Ok(self.check(&vm)),
            (false, true) => self.remove(&vm),
            (false, false) => self.prepare(&vm),
        }
    }
}

impl Setup {
    fn prepare(&self, vm: &Smolvm) -> Result<Reply, Problem> {
        let progress = Progress::of(self.format(), self.quiet, "Setting up");
        let packages = if self.no_install { Packages::OnlyReport } else { Packages::Install };
        let templates = if self.no_template { Templates::Leave } else { Templates::Build };
        let request = SetupRequest { images: self.image.clone(), packages, templates };
        let report = vm.setup(&request, &mut |event| progress.say(line(event)))?;
        drop(progress);
        if !self.quiet && !self.json {
            report.notes.iter().for_each(|text| note(text));
        }
        let text = || {
            report.steps.iter().fold(String::new(), |text, step| {
                let how = match step.outcome {
                    StepOutcome::Done => "done",
                    StepOutcome::Already => "there",
                };
                format!("{text}{how:<6} {:<10} {}\n", step.name, step.detail)
            })
        };
        Ok(Reply::new(self.format(), || json!({"steps": report.steps, "notes": report.notes}), text))
    }

    fn check(&self, vm: &Smolvm) -> Reply {
        let progress = Progress::of(self.format(), self.quiet, "Checking");
        let checks = vm.setup_check();
        drop(progress);
        Reply::new(self.format(), || checks_data(&checks), || checks_text(&checks, false)).but(failing(&checks, "smolvm setup"))
    }

    fn remove(&self, vm: &Smolvm) -> Result<Reply, Problem> {
        let report = vm.setup_remove()?;
        let text = || {
            let removed = format!("{} removed\n", display_bytes(report.freed_bytes));
            report.kept.iter().fold(removed, |text, kept| text + "kept: " + kept + "\n")
        };
        Ok(Reply::new(self.format(), || json!(report), text))
    }
}

fn line(event: &SetupEvent) -> String {
    let percent = event.fraction.map(|fraction| format!(" {:.0} %", fraction * 100.0)).unwrap_or_default();
    format!("{}: {}{percent}", event.step, event.detail)
}
