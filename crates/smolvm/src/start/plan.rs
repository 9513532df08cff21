//! One start, decided before anything is made.

use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;

use smolvm_host::engine::accel;
use smolvm_host::engine::probe::Engine;
use smolvm_host::image::Digest;
use smolvm_host::image::snapshot::Files;
use smolvm_host::image::template::{DiskState, Draft, Facts, Opened};
use smolvm_host::store::{Run, SandboxRecord, Surroundings};
use smolvm_host::{image, random};
use smolvm_model::engine::{AcceleratorRequest, MachineShape, NetKind, common_argv, decide};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::{LaunchToken, SandboxId};
use smolvm_model::spec::{NetworkMode, Spec};

use crate::capacity;
use crate::clock::now_ms;
use crate::copy::Whole;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::monitor::MonitorMemory;

/// One start, decided.
#[derive(Debug)]
pub(crate) struct StartPlan {
    pub(crate) token: LaunchToken,
    pub(super) run: Run,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    pub(super) image: PathBuf,
    pub(crate) network: NetworkMode,
    pub(super) cpus: u8,
    pub(crate) memory_mib: u32,
    pub(super) disk_bytes: u64,
    /// Which accelerator was asked for.
    pub(crate) request: AcceleratorRequest,
    /// What a template of such a machine is made of.
    pub(crate) facts: Facts,
    /// What it is forked from; a fresh data disk becomes a copy of the one there, before anything runs.
    pub(super) template: Option<Opened>,
    /// Where its memory comes from; it boots unless something else is decided.
    pub(super) memory: MonitorMemory,
    /// What tells when that is all there, where it may not be yet.
    pub(super) whole: Option<Arc<Whole>>,
}

impl StartPlan {
    /// Boots, and says why.
    pub(crate) fn boots(self, reason: String) -> Self {
        self.from(MonitorMemory::Boot, BOOTED, reason)
    }

    /// Is forked from a template.
    pub(crate) fn forks(self, template: Opened) -> Self {
        let reason = format!("template {}", self.facts.key());
        Self { template: Some(template), ..self.from(MonitorMemory::Fork, FORKED, reason) }
    }

    /// Boots, to be parked.
    pub(crate) fn parks(self, draft: &Draft) -> Self {
        let memory = MonitorMemory::Park {
            memory: draft.memory(),
            devices: draft.devices(),
            disk: self.facts.disk,
            rehearse: self.facts.rehearsed.clone(),
        };
        self.from(memory, BOOTED, "a template is being made".to_owned())
    }

    /// Goes on as a copy of a machine that ran.
    pub(crate) fn restores(self, machine: Machine<'_>) -> Self {
        let files = machine.files;
        let memory = MonitorMemory::Restore { memory: files.memory.clone(), devices: files.devices.clone() };
        let (word, reason) = match machine.of {
            CopyOf::Snapshot(name) => (RESTORED, format!("snapshot {name}")),
            CopyOf::Sandbox(id) => (COPIED, format!("a copy of {id}")),
        };
        Self { whole: machine.whole.cloned(), ..self.from(memory, word, reason) }
    }

    fn from(self, memory: MonitorMemory, started_from: &str, started_from_reason: String) -> Self {
        let run = Run { started_from: started_from.to_owned(), started_from_reason, ..self.run };
        Self { run, memory, ..self }
    }

    /// Whether its guest goes on only when it is told that all it needs is there.
    pub(super) fn awaits_word(&self) -> bool {
        self.memory.awaits_word()
    }

    pub(super) fn is_fork(&self) -> bool {
        self.memory.is_fork()
    }
}

/// How a run that booted is called.
pub(crate) const BOOTED: &str = "cold";
/// How a run that was forked from a template is called.
const FORKED: &str = "template";
/// How a run that goes on from a snapshot is called.
const RESTORED: &str = "snapshot";
/// How a run that goes on as a copy of another is called.
const COPIED: &str = "fork";

/// What a machine goes on as a copy of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CopyOf<'a> {
    /// A snapshot of this name.
    Snapshot(&'a SandboxId),
    /// This sandbox, as it ran a moment ago.
    Sandbox(&'a SandboxId),
}

/// A machine that ran, and goes on as another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine<'a> {
    /// Where its memory, devices and disk lie.
    pub(crate) files: &'a Files,
    /// Which machine it was.
    pub(crate) of: CopyOf<'a>,
    /// What ran it; no other can.
    pub(crate) accelerator: AcceleratorRequest,
    /// What tells when its memory is all there, where it may not be yet.
    pub(crate) whole: Option<&'a Arc<Whole>>,
}

impl Smolvm {
    /// Everything that can be refused is refused here, with nothing made.
    pub(crate) fn plan_start(&self, spec: &Spec, accelerator: Option<AcceleratorRequest>, disk: DiskState) -> Result<StartPlan, Error> {
        capacity::check_start(self.paths(), spec)?;
        self.plan(spec, accelerator, disk)
    }

    /// What a machine of this kind would be made of now; whether there is room for one does not matter.
    pub(crate) fn facts(&self, spec: &Spec, accelerator: Option<AcceleratorRequest>, disk: DiskState) -> Result<Facts, Error> {
        self.plan(spec, accelerator, disk).map(|plan| plan.facts)
    }

    fn plan(&self, spec: &Spec, accelerator: Option<AcceleratorRequest>, disk: DiskState) -> Result<StartPlan, Error> {
        let image = self.image_of(spec).map_err(|e| {
            Error::new(ErrorCode::MissingDependency, format!("the image \"{}\" this sandbox was made from is gone", spec.image))
                .hint(format!("smolvm setup --image {}; a new sandbox then uses the new image", spec.image))
                .because(e)
        })?;
        let boot = image::boot_files(&self.paths().cache).map_err(|e| {
            let way = if matches!(e, image::ImageError::NoAgent) {
                "cargo xtask build   makes a smolvm that carries the agent"
            } else {
                "smolvm setup"
            };
            Error::new(ErrorCode::MissingDependency, "the guest's kernel is not prepared").hint(way).because(e)
        })?;
        let engine = Engine::find(self.settings.hypervisor.as_deref(), &self.paths().cache).map_err(|e| {
            Error::new(ErrorCode::MissingDependency, "the hypervisor cannot be used")
                .hint("apt-get install --no-install-recommends qemu-system-x86")
                .because(e)
        })?;
        let request = accelerator.unwrap_or(spec.accelerator);
        let host = accel::host_speed(&self.paths().cache, &self.boot_id);
        let choice = decide(request, &host.kvm).map_err(|e| {
            Error::new(ErrorCode::Unsupported, "the accelerator cannot be used").hint("leave --accel away, or use --accel tcg").because(e)
        })?;
        let token = draw_token()?;
        let accelerator = choice.accelerator;
        let odd = || Error::new(ErrorCode::Internal, "a machine has processors and memory");
        let shape = MachineShape {
            cpus: NonZeroU8::new(spec.cpus.get()).ok_or_else(odd)?,
            memory_mib: NonZeroU32::new(spec.memory.mib()).ok_or_else(odd)?,
            accelerator,
        };
        let facts = Facts {
            image: spec.image.to_string(),
            image_digest: spec.image_digest.clone(),
            boot_digest: boot.digest.to_string(),
            machine: Digest::of(&[common_argv(shape, device(spec.network)).join("\0").as_bytes()]).to_string(),
            accelerator: accelerator.as_str().to_owned(),
            cpus: spec.cpus.get(),
            memory_mib: spec.memory.mib(),
            disk_bytes: spec.disk.bytes(),
            disk,
            rehearsed: match disk {
                DiskState::Fresh => image::rehearsal(spec.image.as_str()),
                DiskState::Used => Vec::new(),
            },
            network: device_word(spec.network).to_owned(),
            hypervisor: engine.fingerprint(),
            boot_id: self.boot_id.clone(),
        };
        Ok(StartPlan {
            token,
            run: Run {
                accelerator: choice.accelerator.as_str().to_owned(),
                accelerator_reason: choice.reason,
                started_ms: now_ms(),
                enforced: serde_json::Value::Null,
                kernel: boot.kernel_release.clone(),
                hypervisor: engine.version.to_string(),
                agent: String::new(),
                started_from: BOOTED.to_owned(),
                started_from_reason: String::new(),
                surroundings: Surroundings { hypervisor: facts.hypervisor.clone(), machine: facts.machine.clone() },
                steps: Vec::new(),
                pooled: String::new(),
            },
            kernel: boot.kernel,
            initramfs: boot.initramfs,
            image: image.path,
            network: spec.network,
            cpus: spec.cpus.get(),
            memory_mib: spec.memory.mib(),
            disk_bytes: spec.disk.bytes(),
            request,
            facts,
            template: None,
            memory: MonitorMemory::Boot,
            whole: None,
        })
    }

    /// The very image the sandbox was made from: its disk is a layer over that one's files.
    fn image_of(&self, spec: &Spec) -> Result<image::Image, image::ImageError> {
        let digest =
            spec.image_digest.parse().map_err(|_| image::ImageError::NotFound { name: spec.image.to_string(), available: Vec::new() })?;
        image::resolve_digest(&self.paths().cache, &digest)
    }
}

fn draw_token() -> Result<LaunchToken, Error> {
    let bytes = random::bytes().map_err(|e| Error::new(ErrorCode::Internal, "no random bytes").because(e))?;
    Ok(LaunchToken::from_random(bytes))
}

/// A sandbox that was never started has nothing on its disk, unless it began with the disk of another.
pub(super) fn disk_of(record: &SandboxRecord) -> DiskState {
    if record.run.is_none() && record.spec.restored_from.is_none() { DiskState::Fresh } else { DiskState::Used }
}

/// The network device of a machine: a TAP offers more than a stream, and a guest has agreed to what its device offered.
fn device(network: NetworkMode) -> Option<NetKind> {
    match network {
        NetworkMode::None => None,
        NetworkMode::User => Some(NetKind::Stream),
        NetworkMode::Tap => Some(NetKind::Tap),
    }
}

fn device_word(network: NetworkMode) -> &'static str {
    match device(network) {
        None => "none",
        Some(NetKind::Tap) => "tap",
        Some(NetKind::Stream) => "stream",
    }
}
