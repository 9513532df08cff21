//! The real guest behind the [`Guest`] seam.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::process::Pid;
use rustix::system::RebootCommand;
use smolvm_proto::{BootConfig, Entropy, NetworkConfig, Ready, UnixTime};

use super::identity::{BootId, Layer, Placed, Shown};
use super::modules::Group;
use super::overlay::{Disk, Upper};
use super::quiet::Quiet;
use super::standstill::Standstill;
use super::steps::Steps;
use super::{entropy, failed, identity, modules, mounts, network, overlay};
use crate::serve::{BootFailure, Guest, Rest};

/// What pid 1 holds between boot and power-off.
pub(super) struct Machine {
    /// What mounting the root image gave, once it was tried.
    image: Option<Result<(), BootFailure>>,
    /// The network device, from when it was first asked for.
    device: Option<network::Device>,
    has_loopback: bool,
    steps: Steps,
    disk: Option<Disk>,
    /// The layer that says who the guest is.
    layer: Option<Layer>,
    /// Whether the root was put together before it was known who the guest is.
    has_root: bool,
    /// The kernel's random generator.
    generator: Option<OwnedFd>,
    /// What lies over the kernel's boot id.
    boot_id: Option<BootId>,
    /// Where the guest's root shows its machine id.
    shown: Option<Shown>,
    /// Whether what the layer says is what the guest's root showed when it was parked, or came to rest. Asked then: whoever is a copy begins
    /// with fewer paths to walk.
    is_plain: bool,
    /// What says that the kernel is done.
    quiet: Option<Quiet>,
    /// The network it was given.
    network: Option<NetworkConfig>,
    /// What stops its processes.
    standstill: Option<Result<Standstill, BootFailure>>,
}

impl Machine {
    /// A guest that can be talked to.
    pub(super) fn new(steps: Steps) -> Self {
        Self {
            image: None,
            device: None,
            has_loopback: false,
            steps,
            disk: None,
            layer: None,
            has_root: false,
            generator: None,
            boot_id: None,
            shown: None,
            is_plain: false,
            quiet: None,
            network: None,
            standstill: None,
        }
    }

    /// What the guest is, as the kernel and its files say.
    fn ready(&mut self, address: Option<String>, entropy_bytes: u32) -> Result<Ready, BootFailure> {
        let shown = match self.shown.take() {
            Some(shown) => shown,
            None => Shown::open()?,
        };
        let machine_id = self.shown.insert(shown).machine_id()?;
        self.steps.done("root");
        Ok(Ready {
            hostname: identity::hostname(),
            machine_id,
            address,
            time: now(),
            entropy_bytes,
            uptime_ms: crate::sys::clock::uptime_us() / 1000,
            steps: self.steps.taken(),
        })
    }

    /// Takes the seed up; gives the bytes that count.
    fn seed(&mut self, entropy: &Entropy) -> Result<u32, BootFailure> {
        let generator = match self.generator.take() {
            Some(generator) => generator,
            None => entropy::generator()?,
        };
        entropy::seed(self.generator.insert(generator), entropy)
    }

    /// Whether the guest's root shows what the layer says.
    fn shows_layer(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::leaves_etc) && self.shown.as_ref().is_some_and(Shown::is_plain)
    }

    /// Writes who the guest is, where its root shows it; `before` it was another, or nobody.
    fn say_who(&mut self, config: &BootConfig, before: &str) -> Result<(), BootFailure> {
        let is_plain = std::mem::take(&mut self.is_plain);
        if let Some(layer) = self.layer.as_mut().filter(|layer| is_plain && layer.has_all(config)) {
            return layer.fill(config);
        }
        // What its root showed may be another file now.
        self.shown = None;
        identity::rewrite(config, before, self.layer.as_mut())
    }

    fn put_root_together(&mut self, config: &BootConfig) -> Result<(), BootFailure> {
        overlay::mount_upper(if config.data_disk { Upper::DataDisk } else { Upper::Memory })?;
        self.steps.done("disk");
        let placed = identity::place(config)?;
        self.steps.done("identity");
        self.layer = match placed {
            Placed::Layer => Some(Layer::open()?),
            Placed::Refused => None,
        };
        self.disk = Some(overlay::assemble(placed)?);
        self.steps.done("overlay");
        modules::forget();
        overlay::switch_root()?;
        mounts::finish()?;
        // What the layer does not show is written now: an `/etc` that the guest made anew hides it.
        identity::write(config)
    }
}

fn now() -> UnixTime {
    let (secs, nanos) = crate::sys::clock::wall();
    UnixTime { secs, nanos }
}

impl Guest for Machine {
    fn prepare(&mut self) {
        self.steps.done("hello");
        self.image.get_or_insert_with(overlay::mount_image);
        self.steps.done("image");
        self.standstill.get_or_insert_with(Standstill::open);
        self.generator = entropy::generator().ok();
        self.steps.done("standstill");
    }

    fn park(&mut self, network: bool, fresh_disk: bool) -> Result<(), BootFailure> {
        self.image.get_or_insert_with(overlay::mount_image).clone()?;
        if let Ok(standstill) = self.standstill.get_or_insert_with(Standstill::open) {
            standstill.make_quick();
        }
        network::loopback()?;
        self.has_loopback = true;
        if network {
            modules::load(Group::Net)?;
            self.device.insert(network::Device::find()?).raise()?;
        }
        if fresh_disk {
            overlay::mount_upper(Upper::DataDisk)?;
            self.boot_id = Some(BootId::prepare()?);
            self.layer = Some(Layer::make(network)?);
            self.has_root = true;
            self.disk = Some(overlay::assemble(Placed::Layer)?);
            modules::forget();
            overlay::switch_root()?;
            mounts::finish()?;
            rustix::fs::sync();
        }
        Ok(())
    }

    fn parked(&mut self) {
        // After the rehearsal, which ran the image's own programs.
        if self.has_root {
            self.shown = Shown::open().ok();
            self.is_plain = self.shows_layer();
        }
        match self.quiet.take().map_or_else(Quiet::open, Ok) {
            Ok(quiet) => self.quiet.insert(quiet).wait(),
            Err(e) => crate::log::line(format_args!("forks will be slower to begin: {e}")),
        }
        self.steps = Steps::start();
    }

    fn set_clock(&mut self, time: UnixTime) -> Result<UnixTime, BootFailure> {
        entropy::set_clock(time)?;
        Ok(now())
    }

    fn boot(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
        self.steps.done("wait");
        self.image.get_or_insert_with(overlay::mount_image).clone()?;
        entropy::set_clock(config.time)?;
        let entropy_bytes = self.seed(&config.entropy)?;
        identity::set_hostname(&config.hostname)?;
        self.steps.done("entropy");
        if !std::mem::replace(&mut self.has_loopback, true) {
            network::loopback()?;
        }
        let address = match &config.network {
            Some(wanted) => {
                let device = if let Some(device) = self.device.take() {
                    device
                } else {
                    modules::load(Group::Net)?;
                    network::Device::find()?
                };
                Some(self.device.insert(device).configure(wanted)?)
            }
            None => None,
        };
        self.network.clone_from(&config.network);
        self.steps.done("network");
        if self.has_root {
            self.say_who(config, "")?;
        } else {
            self.put_root_together(config)?;
        }
        self.ready(address, entropy_bytes)
    }

    fn part_processes(&mut self) -> Result<(), BootFailure> {
        mounts::control_groups()?;
        crate::sys::spawn::part_processes().map_err(failed("init", "a namespace of processes"))
    }

    fn sync(&mut self) {
        rustix::fs::sync();
    }

    fn stop_all(&mut self, until: Instant) -> Result<Rest, BootFailure> {
        match self.standstill.get_or_insert_with(Standstill::open) {
            Ok(standstill) => {
                let rest = standstill.stop(until)?;
                if rest == Rest::Reached {
                    // Nobody is left who could change it.
                    self.is_plain = self.shows_layer();
                    self.boot_id = self.boot_id.take().and_then(BootId::found);
                }
                Ok(rest)
            }
            Err(failure) => Err(failure.clone()),
        }
    }

    fn let_all_go_on(&mut self) {
        if let Some(Ok(standstill)) = &mut self.standstill {
            standstill.go_on();
        }
    }

    fn restore(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
        self.steps = Steps::start();
        entropy::set_clock(config.time)?;
        let entropy_bytes = self.seed(&config.entropy)?;
        let before = identity::hostname();
        identity::set_hostname(&config.hostname)?;
        self.steps.done("entropy");
        let address = match &config.network {
            Some(wanted) => {
                let device = match self.device.take() {
                    Some(device) => device,
                    None => network::Device::find()?,
                };
                Some(self.device.insert(device).replace(wanted, self.network.as_ref())?)
            }
            None => None,
        };
        self.network.clone_from(&config.network);
        self.steps.done("network");
        self.say_who(config, &before)?;
        self.steps.done("identity");
        self.boot_id = Some(BootId::renew(self.boot_id.take())?);
        self.ready(address, entropy_bytes)
    }

    fn signal_all(&mut self, signal: i32, _groups: &mut dyn Iterator<Item = Pid>) {
        if let Err(errno) = crate::sys::kill::everything(signal) {
            crate::log::line(format_args!("signal {signal} to all: {errno}"));
        }
    }

    fn settle(&mut self) {
        rustix::fs::sync();
        if let Some(Err(errno)) = self.disk.as_ref().map(Disk::settle) {
            crate::log::line(format_args!("the data disk could not be made read-only: {errno}"));
        }
    }

    fn power_off(&mut self) {
        let _ = rustix::system::reboot(RebootCommand::PowerOff);
    }

    fn outlives_host(&self) -> bool {
        true
    }
}
