//! Arguments that several verbs share.

use std::collections::BTreeMap;

use clap::Args;
use smolvm::create::{CreateRequest, Init};
use smolvm::start::StartFrom;
use smolvm_model::config::Config;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::{Cpus, DiskSize, Memory, Span};
use smolvm_model::spec::{ImageName, LabelKey, NetworkMode, SpecError, VarName, parse_pair};

use crate::output::Format;

/// What every lifecycle command takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Common {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print ids only, no notes and no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Tell more
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

impl Common {
    pub(crate) fn format(self) -> Format {
        Format::of(self.json)
    }
}

/// What machine a sandbox is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(crate) struct MachineOptions {
    /// Virtual processors [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<Cpus>,
    /// Memory: 512, 512M, 2G [default: 512M; minimal: 128M]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,
    /// Size of its disk, sparse [default: 8G]
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<DiskSize>,
    /// tap (needs root), user or none [default: tap, or user without the rights]
    #[arg(long, value_name = "MODE")]
    net: Option<NetworkMode>,
    /// auto, kvm or tcg [default: auto]
    #[arg(long, value_name = "ACCEL")]
    accel: Option<AcceleratorRequest>,
}

impl MachineOptions {
    /// What the library is asked for; what is not said here is settled by the configuration.
    pub(crate) fn request(&self, image: ImageName, config: &Config) -> CreateRequest {
        let settled = configured(image, config);
        CreateRequest {
            cpus: self.cpus.or(settled.cpus),
            memory: self.memory.or(settled.memory),
            disk: self.disk_size.or(settled.disk),
            network: self.net.or(settled.network),
            accelerator: self.accel.unwrap_or(settled.accelerator),
            ..settled
        }
    }
}

/// A sandbox of which nothing is said: all of it is settled by the configuration.
pub(crate) fn configured(image: ImageName, config: &Config) -> CreateRequest {
    CreateRequest {
        cpus: config.cpus(),
        memory: config.memory(),
        disk: config.disk(),
        network: config.network(),
        accelerator: config.accelerator(),
        ..CreateRequest::of(image.complete(&config.registries().default))
    }
}

/// What a new sandbox can be told; `create` and `run` share it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub(crate) struct SandboxOptions {
    /// Its name and the guest's hostname; one is made up without it
    #[arg(long, value_name = "NAME")]
    name: Option<SandboxId>,
    /// A variable for every command in it; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(VarName, String)>,
    /// A mark of your own; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(LabelKey, String)>,
    /// Time to live: 30s, 5m, 1h30m; `cleanup` takes it after that
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Span>,
    /// Boot the image's own init (systemd) as well; commands run beside its services
    #[arg(long)]
    init: bool,
    #[command(flatten)]
    machine: MachineOptions,
}

/// Where a guest comes from.
#[derive(Debug, Args)]
pub(crate) struct Origin {
    /// Boot it, instead of forking a template
    #[arg(long)]
    cold: bool,
}

impl Origin {
    pub(crate) fn wanted(&self) -> StartFrom {
        origin(self.cold)
    }
}

/// What `--cold` asks for.
pub(crate) fn origin(cold: bool) -> StartFrom {
    if cold { StartFrom::Boot } else { StartFrom::Template }
}

impl SandboxOptions {
    /// What the library is asked for; what is not said here is settled by the configuration.
    pub(crate) fn request(&self, image: ImageName, config: &Config) -> CreateRequest {
        CreateRequest {
            name: self.name.clone(),
            env: collect(&self.env),
            labels: collect(&self.label),
            ttl: self.ttl.or(config.ttl()),
            init: if self.init { Init::Image } else { Init::Agent },
            ..self.machine.request(image, config)
        }
    }
}

/// Pairs as a map; the last of a key counts.
pub(crate) fn collect<K: Clone + Ord>(pairs: &[(K, String)]) -> BTreeMap<K, String> {
    pairs.iter().cloned().collect()
}

/// `KEY=VALUE` of a variable.
pub(crate) fn variable(text: &str) -> Result<(VarName, String), SpecError> {
    parse_pair(text)
}

fn label(text: &str) -> Result<(LabelKey, String), SpecError> {
    parse_pair(text)
}
