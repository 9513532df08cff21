//! A monitor's life from its first instruction to its last.

use std::fs::{File, OpenOptions};
use std::num::{NonZeroU8, NonZeroU32};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use smolvm_host::disk::{Chain, OpenDisk};
use smolvm_host::effect::{perform, perform_once};
use smolvm_host::engine::accel;
use smolvm_host::engine::launch::{self, LaunchError, LaunchRequest, Memory, NetAttach, Place, Prepared, Started};
use smolvm_host::engine::probe::Engine;
use smolvm_host::image::template::Opened;
use smolvm_host::jail::JailIdentity;
use smolvm_host::lock::{self, Lock};
use smolvm_host::store::Store;
use smolvm_host::{proc::identity, random};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::engine::{Accelerator, MachineShape};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Kind, ProcessIdentity};
use smolvm_model::name::{LaunchToken, Mark, SandboxId};

use super::config::{MonitorConfig, MonitorMemory};
use super::handover::{self, Handed};
use super::poll::{Loop, Parts};
use super::report::{Report, Reporter};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::paths::{CONSOLE, HYPERVISOR_LOG};
use crate::session::socket_path;
use crate::start::Steps;

/// Runs a monitor; its standard output is a socket to the command that started it.
///
/// Returns when the hypervisor has ended; the value is the process's exit status.
pub fn run() -> u8 {
    let (told, mut reporter) = match read_config() {
        Ok(Some(told)) => told,
        // The command has given up before there was anything to do.
        Ok(None) => return 1,
        Err(e) => {
            complain(&e);
            return 1;
        }
    };
    match live(told, &mut reporter) {
        Ok(()) => 0,
        Err(e) => {
            complain(&e);
            let (code, message) = (e.code.to_string(), e.one_line());
            reporter.finish(&Report::Failed { code, message, recovery: e.recovery.clone() });
            1
        }
    }
}

/// Standard error is the monitor's log.
#[expect(clippy::print_stderr, reason = "the monitor's standard error is its log file")]
pub(super) fn complain(e: &Error) {
    eprintln!("smolvm monitor: {}", e.one_line());
}

/// A line for the log.
#[expect(clippy::print_stderr, reason = "the monitor's standard error is its log file")]
pub(super) fn note(text: &str) {
    eprintln!("smolvm monitor: {text}");
}

/// What a monitor is told, and what it has made ready meanwhile.
struct Told {
    config: MonitorConfig,
    ready: Result<Ready, Error>,
    /// Where the time of this start went until then.
    steps: Steps,
    template: Option<Opened>,
    tap: Option<OwnedFd>,
}

/// What takes nothing that is made for the run.
struct Ready {
    vm: Smolvm,
    /// The hypervisor's jail. Whoever is in it does nothing yet, and ends with this process.
    prepared: Prepared,
}

impl Ready {
    fn get(config: &MonitorConfig) -> Result<Self, Error> {
        let vm = Smolvm::open(config.settings.clone())?;
        let engine = Engine::find(vm.settings.hypervisor.as_deref(), &vm.paths().cache)
            .map_err(|e| Error::new(ErrorCode::MissingDependency, "the hypervisor cannot be used").hint("smolvm doctor").because(e))?;
        let place = Place {
            engine: &engine,
            shape: MachineShape {
                cpus: NonZeroU8::new(config.cpus).ok_or_else(|| odd("a number of processors"))?,
                memory_mib: NonZeroU32::new(config.memory_mib).ok_or_else(|| odd("an amount of memory"))?,
                accelerator: if config.accelerator == "kvm" { Accelerator::Kvm } else { Accelerator::Tcg },
            },
            memory: config.memory.kind(),
            kernel: &config.kernel,
            initramfs: &config.initramfs,
            identity: config.uid.map_or(JailIdentity::Caller, JailIdentity::Uid),
        };
        let prepared = launch::prepare(&place).map_err(not_started(config.memory.is_fork()))?;
        Ok(Self { vm, prepared })
    }
}

fn odd(what: &str) -> Error {
    Error::new(ErrorCode::Internal, format!("the monitor was given {what} that is none"))
}

fn live(told: Told, reporter: &mut Reporter) -> Result<(), Error> {
    let Told { config, ready, mut steps, template, tap } = told;
    let (Ready { vm, prepared }, config) = (ready?, &config);
    let vm = &vm;
    let id: SandboxId = config.id.parse().map_err(|_| odd("an id"))?;
    let token: LaunchToken = config.token.parse().map_err(|_| odd("a launch token"))?;
    let _alive = hold_lock(vm, &id)?;
    let listener = perform(Effect::MonitorFiles, |_| listen(vm, &id))?;
    let chain = Chain::read(&vm.paths().disk(&id))?;
    let mark = vm.mark(&id);
    let (started, network) = perform_once(Effect::Hypervisor, |permit| {
        let (net, network) = super::network::attach(config, tap)?;
        let request = request(config, template.as_ref(), vm, (&mark, &token), &chain, net)?;
        let started = launch::start(permit, prepared, request).map_err(not_started(config.memory.is_fork()))?;
        Ok::<_, Error>((started, network))
    })?;
    steps.done("monitor");
    record(vm, &token, &started)?;
    let launched =
        started.believe(reporter.word().filter(|_| config.memory.awaits_word())).map_err(not_started(config.memory.is_fork()))?;
    steps.done("hypervisor");
    let parts = Parts {
        steps,
        pid: launched.pid,
        pidfd: launched.pidfd,
        qmp: launched.qmp,
        qmp_stream: launched.qmp_stream,
        agent: launched.agent,
        console: launched.console,
        stderr: launched.stderr,
        enforced: serde_json::to_value(&launched.enforced).unwrap_or_default(),
        listener,
        network,
        layers: chain.numbers(),
        console_log: vm.paths().sandbox(&id).join(CONSOLE),
        hypervisor_log: vm.paths().sandbox(&id).join(HYPERVISOR_LOG),
    };
    Loop::new(config, vm, &id, parts, reporter)?.run()
}

/// Waits for what it is to do, gets ready until it is told all of it, and frees standard output for what nobody may hold open by accident.
fn read_config() -> Result<Option<(Told, Reporter)>, Error> {
    let fail = |e: std::io::Error| Error::new(ErrorCode::Internal, "the monitor was not told what to do").because(e);
    let own: OwnedFd = rustix::stdio::stdout().try_clone_to_owned().map_err(fail)?;
    let null: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(fail)?.into();
    rustix::stdio::dup2_stdout(&null).map_err(|e| fail(e.into()))?;
    let socket = UnixStream::from(own);
    let Some(text) = handover::receive_run(&socket).map_err(fail)? else { return Ok(None) };
    let config: MonitorConfig = serde_json::from_slice(&text).map_err(|e| fail(e.into()))?;
    let ready = Ready::get(&config);
    let Some(Handed { text, template, tap }) = handover::receive_parts(&socket).map_err(fail)? else { return Ok(None) };
    let steps = serde_json::from_slice(&text).map_err(|e| fail(e.into()))?;
    Ok(Some((Told { config, ready, steps, template: template.map(Opened::from), tap }, Reporter::new(socket.into()))))
}

fn hold_lock(vm: &Smolvm, id: &SandboxId) -> Result<Lock, Error> {
    Ok(lock::take(&vm.paths().monitor_lock(id), Duration::from_secs(1))?)
}

fn listen(vm: &Smolvm, id: &SandboxId) -> Result<UnixListener, Error> {
    let fail = |e: std::io::Error| Error::new(ErrorCode::Internal, "the monitor's socket cannot be made").because(e);
    let dir = openat(CWD, vm.paths().run_dir(id), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| fail(e.into()))?;
    let path = socket_path(&dir);
    // A killed monitor leaves its socket's name; the lock says that it is dead.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// All that the hypervisor is started with.
fn request<'a>(
    config: &MonitorConfig,
    template: Option<&Opened>,
    vm: &Smolvm,
    (mark, token): (&'a Mark, &'a LaunchToken),
    chain: &Chain,
    net: Option<NetAttach>,
) -> Result<LaunchRequest<'a>, Error> {
    // What is wrong with a template is not the host's fault: whoever asked may boot instead.
    let is_fork = config.memory.is_fork();
    let of_template = |file: std::io::Result<File>| {
        let code = |e: &std::io::Error| if is_fork { ErrorCode::GuestError } else { crate::error::io_code(e) };
        file.map_err(|e| Error::new(code(&e), "the template cannot be opened").because(e))
    };
    let open = |what: &'static str, file: std::io::Result<File>| {
        file.map_err(|e| Error::new(crate::error::io_code(&e), format!("the {what} cannot be opened")).because(e))
    };
    Ok(LaunchRequest {
        mark,
        token,
        memory: match &config.memory {
            MonitorMemory::Boot => Memory::Anonymous,
            MonitorMemory::Park { memory, .. } => Memory::Parked(of_template(OpenOptions::new().read(true).write(true).open(memory))?),
            MonitorMemory::Fork => {
                let template = template.ok_or_else(|| odd("a template"))?;
                Memory::Forked { memory: of_template(template.memory())?, devices: of_template(template.devices())? }
            }
            MonitorMemory::Restore { memory, devices, .. } => Memory::Restored {
                memory: open("memory of what it is a copy of", File::open(memory))?,
                devices: open("state of what it is a copy of", File::open(devices))?,
            },
        },
        tsc_khz: accel::host_speed(&vm.paths().cache, &vm.boot_id).tsc_khz,
        root_image: open("root image", File::open(&config.image))?,
        data_disk: OpenDisk::open(chain, config.disk_bytes)?,
        net,
    })
}

fn not_started(is_fork: bool) -> impl FnOnce(LaunchError) -> Error {
    let code = if is_fork { ErrorCode::GuestError } else { ErrorCode::Internal };
    move |e| Error::new(code, "the hypervisor cannot be started").hint("smolvm doctor").because(e)
}

/// Writes down who the monitor and its hypervisor are, while that gets ready.
///
/// Until then both are found by their marks. Should one of them be killed here, no guest has run that goes on from a memory; and one that
/// boots has been told nothing.
fn record(vm: &Smolvm, token: &LaunchToken, started: &Started) -> Result<(), Error> {
    let own = identity::look(vm.proc(), std::process::id()).ok().flatten();
    let own =
        own.ok_or_else(|| Error::new(ErrorCode::Unsupported, "the monitor cannot see itself in /proc").hint("/proc must be mounted"))?;
    let identity = |pid, start_ticks| ProcessIdentity { pid, start_ticks, boot_id: vm.boot_id.clone(), token: token.to_string() };
    let (monitor, hypervisor) = (identity(std::process::id(), own.start_ticks), identity(started.pid(), started.start_ticks()));
    let mut store = Store::open(&vm.paths().database())?;
    // `Changed` means that an entry is gone: somebody deleted the sandbox, and this run has no place any more.
    Ok(store.write(Commit::Launched, |w| {
        w.set_identity(Kind::Monitor, token.as_str(), &monitor)?;
        w.set_identity(Kind::Process, token.as_str(), &hypervisor)
    })?)
}

/// A fresh attach's nonce and a guest's seed.
pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], Error> {
    random::bytes().map_err(|e| Error::new(ErrorCode::Internal, "no random bytes").because(e))
}
