//! `setup`: hypervisor, kernel, initramfs and images, from nothing or from wherever it was left.
//!
//! ```text
//!   packages ─► kernel ─► initramfs ─► images, the quickest first ─► engine (measured once per boot)
//!      │           └──────────┴──── each built aside under its lock, published by one rename
//!      └ root only, by apt; anybody else is told the command
//! ```
//!
//! Invariants: nothing but the cache directory and, by root and on request, the system's packages is
//! changed; what is there and whole is kept; killed anywhere, the next run goes on where it was; two
//! at once wait for each other's part and both end well.

mod failure;
mod packages;
mod remove;

pub(crate) use failure::judge;
use std::time::{Duration, Instant};

use serde::Serialize;
use smolvm_host::engine::{accel, probe};
use smolvm_host::image::{self, BuiltIn, ImageError, Progress, Renew};
use smolvm_host::proc::tool;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::ImageName;

use crate::create::CreateRequest;
use crate::doctor::{self, CheckReport};
use crate::error::Error;
use crate::installation::{Smolvm, is_root};

pub use packages::Packages;
pub(crate) use packages::{HYPERVISOR, command};
pub use remove::RemoveReport;

/// As long as a download may take.
const LEFTOVER_WAIT: Duration = Duration::from_mins(5);

/// What `setup` is asked for.
#[derive(Debug, Clone, Default)]
pub struct SetupRequest {
    /// Images to prepare; none means all that smolvm knows how to build.
    pub images: Vec<ImageName>,
    /// What to do about missing packages of the system.
    pub packages: Packages,
    /// Whether templates are made, too.
    pub templates: Templates,
}

/// Whether `setup` makes a template of each image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Templates {
    /// The one of a sandbox that is asked for without options.
    #[default]
    Build,
    /// The first start makes it.
    Leave,
}

/// One thing that `setup` is doing now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SetupEvent {
    /// `packages`, `kernel`, `initramfs`, the name of an image, `engine`, or `template`.
    pub step: String,
    /// What of it, for a person.
    pub detail: String,
    /// How much of the step is done, from 0 to 1, where that can be told.
    pub fraction: Option<f32>,
}

/// What `setup` did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SetupReport {
    /// Every step in order.
    pub steps: Vec<SetupStep>,
    /// What is not as good as it could be, each with the command that mends it.
    pub notes: Vec<String>,
}

/// One step of `setup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetupStep {
    /// As in [`SetupEvent::step`].
    pub name: String,
    /// Whether anything was to be done.
    pub outcome: StepOutcome,
    /// What is there now, for a person.
    pub detail: String,
}

/// Whether a step had anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It was made now.
    Done,
    /// It was there.
    Already,
}

/// Who is told what `setup` is at.
pub type Listener<'a> = &'a mut dyn FnMut(&SetupEvent);

impl Smolvm {
    /// Prepares everything that sandboxes need. What is there already is kept.
    pub fn setup(&self, request: &SetupRequest, listener: Listener<'_>) -> Result<SetupReport, Error> {
        let images = chosen_images(&request.images)?;
        let cache = &self.paths().cache;
        let mut report = SetupReport::default();
        report.notes = self.prepare_packages(&images, request.packages, listener, &mut report.steps)?;
        self.sweep_killed_setups(&mut report);

        let before = image::current_kernel(cache).ok().map(|kernel| kernel.digest);
        let kernel = patiently("kernel", listener, |report| image::prepare_kernel(cache, Renew::IfMissing, report))?;
        report.add("kernel", StepOutcome::of(before.as_ref() == Some(&kernel.digest)), kernel.release);

        let had = self.initramfs_is_current();
        tell(listener, "initramfs", "putting the guest agent into it");
        let boot = image::boot_files(cache).map_err(|e| failure::of("initramfs", e))?;
        report.add("initramfs", StepOutcome::of(had), boot.digest.to_string());

        for which in &images {
            let which = *which;
            let before = image::resolve(cache, which.name()).ok().map(|image| image.digest);
            let image = patiently(which.name(), listener, |report| image::prepare_image(cache, which, Renew::IfMissing, report))?;
            report.add(which.name(), StepOutcome::of(before.as_ref() == Some(&image.digest)), image.digest.to_string());
        }
        self.prepare_engine(listener, &mut report)?;
        if request.templates == Templates::Build {
            for which in images {
                self.prepare_template(which, listener, &mut report);
            }
        }
        Ok(report)
    }

    /// What `setup` would find missing. Changes nothing; reads every image to compare its content.
    pub fn setup_check(&self) -> Vec<CheckReport> {
        let mut checks = doctor::setup_checks(self);
        checks.extend(image::verify_all(&self.paths().cache).into_iter().map(CheckReport::from));
        checks
    }

    /// Removes what a setup that was killed left. What cannot be removed is in the way of nothing that is made: it is told.
    fn sweep_killed_setups(&self, report: &mut SetupReport) {
        if let Err(e) = image::sweep(&self.paths().cache) {
            let e = Error::new(ErrorCode::Internal, "what killed commands left in the cache stays").because(e);
            report.notes.push(format!("{}; when that is mended: smolvm prune", e.one_line()));
        }
    }

    fn initramfs_is_current(&self) -> bool {
        image::checks(&self.paths().cache).iter().any(|c| c.id == "initramfs" && c.status == image::CheckStatus::Pass)
    }

    /// Asks the hypervisor what it needs and measures the host, so that the first start need not.
    fn prepare_engine(&self, listener: Listener<'_>, report: &mut SetupReport) -> Result<(), Error> {
        tell(listener, "engine", "looking at the hypervisor and measuring the processor");
        let cache = &self.paths().cache;
        let engine = probe::Engine::find(self.settings.hypervisor.as_deref(), cache).map_err(|e| {
            Error::new(ErrorCode::MissingDependency, "the hypervisor cannot be used")
                .hint(packages::command(&["qemu-system-x86"], is_root()))
                .because(e)
        })?;
        let speed = accel::host_speed(cache, &self.boot_id);
        report.add("engine", StepOutcome::Already, format!("QEMU {}; {}", engine.version, speed.kvm));
        Ok(())
    }

    /// Sandboxes run without one, too: what stands in its way is told.
    fn prepare_template(&self, which: BuiltIn, listener: Listener<'_>, report: &mut SetupReport) {
        let name = which.name();
        tell(listener, "template", &format!("booting {name} once"));
        let Ok(image) = name.parse() else { return };
        match self.build_template(&CreateRequest::of(image)) {
            Ok(built) => report.add("template", StepOutcome::of(!built.made), format!("{name} {}", built.template.key)),
            Err(e) => {
                report.notes.push(format!("there is no template of {name}, so its sandboxes boot, which takes longer: {}", e.one_line()));
            }
        }
    }

    fn prepare_packages(
        &self,
        images: &[BuiltIn],
        packages: Packages,
        listener: Listener<'_>,
        steps: &mut Vec<SetupStep>,
    ) -> Result<Vec<String>, Error> {
        let own_hypervisor = self.settings.hypervisor.is_some();
        let plan = packages::plan(images, own_hypervisor, is_root(), &tool::find);
        let outcome = packages::carry_out(&plan, packages, is_root(), &mut forward(listener))?;
        let detail = if outcome == StepOutcome::Done { plan.wanted().join(" ") } else { "all there".to_owned() };
        steps.push(SetupStep { name: "packages".to_owned(), outcome, detail });
        Ok(plan.notes(is_root()))
    }
}

impl SetupReport {
    fn add(&mut self, name: &str, outcome: StepOutcome, detail: String) {
        self.steps.push(SetupStep { name: name.to_owned(), outcome, detail });
    }
}

impl StepOutcome {
    fn of(was_there: bool) -> Self {
        if was_there { Self::Already } else { Self::Done }
    }
}

/// The images to build; the quickest first, each once.
fn chosen_images(names: &[ImageName]) -> Result<Vec<BuiltIn>, Error> {
    if let Some(unknown) = names.iter().find(|name| BuiltIn::by_name(name.as_str()).is_none()) {
        let known: Vec<&str> = BuiltIn::ALL.iter().map(|image| image.name()).collect();
        return Err(Error::new(ErrorCode::NotFound, format!("smolvm does not know how to build an image \"{unknown}\""))
            .hint(format!("images it can build: {}", known.join(", "))));
    }
    let wanted = |image: &BuiltIn| names.is_empty() || names.iter().any(|name| name.as_str() == image.name());
    Ok(BuiltIn::ALL.into_iter().filter(wanted).collect())
}

/// Does one step; waits for the apt that a `setup` before this one left behind when it was killed. That apt works
/// in our own cache, ends by itself, and holds apt's lock meanwhile, for which apt has no waiting form.
fn patiently<T>(
    step: &str,
    listener: Listener<'_>,
    mut work: impl FnMut(&mut dyn FnMut(Progress)) -> Result<T, ImageError>,
) -> Result<T, Error> {
    let deadline = Instant::now() + LEFTOVER_WAIT;
    loop {
        let result = work(&mut forward(listener));
        match result {
            Ok(made) => return Ok(made),
            Err(e) if failure::is_apt_at_work(&e) && Instant::now() < deadline => {
                tell(listener, step, "waiting for the apt of a setup that was killed");
                std::thread::sleep(Duration::from_millis(250));
            }
            Err(e) => return Err(failure::of(step, e)),
        }
    }
}

fn forward(listener: Listener<'_>) -> impl FnMut(Progress) {
    |progress| listener(&SetupEvent { step: progress.step.to_owned(), detail: progress.detail, fraction: progress.fraction })
}

fn tell(listener: Listener<'_>, step: &str, detail: &str) {
    listener(&SetupEvent { step: step.to_owned(), detail: detail.to_owned(), fraction: None });
}

#[cfg(test)]
mod tests;
