//! `start`: boot a sandbox and wait for its agent.
//!
//! ```text
//!   lock ─► admit ─► check ─► record intents ─► run dir, TAP, rules ─► monitor ─► (it records, boots) ─► ready
//!                                   │                                     └─ failed, silent: unwind ─► Failed
//!                                   └─ killed here or later: the row says `starting`, the ledger what to look for
//! ```

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use smolvm_host::effect::perform_once;
use smolvm_host::engine::accel;
use smolvm_host::engine::probe::Engine;
use smolvm_host::image;
use smolvm_host::random;
use smolvm_host::store::{Failure, Run, SandboxRecord, Store};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::engine::{AcceleratorRequest, decide};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::{LaunchToken, SandboxId};
use smolvm_model::spec::NetworkMode;
use smolvm_model::state::{Admission, Event, Request, State, next};
use smolvm_model::teardown::Reason;

use crate::capacity;
use crate::clock::now_ms;
use crate::create::make_run_dir;
use crate::error::{Error, io_code};
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::monitor::{MonitorConfig, MonitorNetwork, Report};
use crate::network;
use crate::observe::Looker;
use crate::paths::MONITOR_LOG;
use crate::view::SandboxView;

/// How long a boot may take until the agent answers; TCG boots in about one second.
pub const DEADLINE: Duration = Duration::from_mins(1);

impl Smolvm {
    /// Boots a sandbox; returns when its agent has answered. One that runs already is left alone.
    pub fn start(&self, id: &SandboxId, accelerator: Option<AcceleratorRequest>, deadline: Duration) -> Result<SandboxView, Error> {
        self.start_unless(id, accelerator, deadline, None)
    }

    /// The same, given up and taken back as soon as `signals` can be read.
    pub(crate) fn start_unless(
        &self,
        id: &SandboxId,
        accelerator: Option<AcceleratorRequest>,
        deadline: Duration,
        signals: Option<BorrowedFd<'_>>,
    ) -> Result<SandboxView, Error> {
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        let record = match self.admit(&record, &entries, Request::Start)? {
            Admission::AlreadySo => return Ok(self.inspect(id)?.sandbox),
            Admission::Go => record,
            Admission::ReclaimThenGo => self.reclaim(&mut store, &record)?,
            Admission::Refused(refusal) => return Err(Error::refused_by_state(id, refusal)),
        };
        let plan = self.plan_start(&record, accelerator)?;
        begin(&mut store, &record, &plan)?;
        match self.bring_up(&mut store, id, &plan, Patience { deadline, signals }) {
            Ok(()) => Ok(self.inspect(id)?.sandbox),
            Err(e) => Err(self.unwind(&mut store, id, e.about(id))),
        }
    }

    /// Everything that can be refused is refused here, with nothing made.
    pub(crate) fn plan_start(&self, record: &SandboxRecord, accelerator: Option<AcceleratorRequest>) -> Result<StartPlan, Error> {
        let spec = &record.spec;
        capacity::check_start(self.paths(), spec)?;
        let image = self.image_of(record).map_err(|e| {
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
        let choice = decide(request, &accel::host_speed(&self.paths().cache, &self.boot_id).kvm).map_err(|e| {
            Error::new(ErrorCode::Unsupported, "the accelerator cannot be used").hint("leave --accel away, or use --accel tcg").because(e)
        })?;
        let token = LaunchToken::from_random(random::bytes().map_err(|e| Error::new(ErrorCode::Internal, "no random bytes").because(e))?);
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
            },
            kernel: boot.kernel,
            initramfs: boot.initramfs,
            image: image.path,
            network: spec.network,
            cpus: spec.cpus.get(),
            memory_mib: spec.memory.mib(),
            disk_bytes: spec.disk.bytes(),
        })
    }

    /// The very image the sandbox was made from: its disk is a layer over that one's files.
    fn image_of(&self, record: &SandboxRecord) -> Result<image::Image, image::ImageError> {
        let digest = record
            .spec
            .image_digest
            .parse()
            .map_err(|_| image::ImageError::NotFound { name: record.spec.image.to_string(), available: Vec::new() })?;
        image::resolve_digest(&self.paths().cache, &digest)
    }

    fn bring_up(&self, store: &mut Store, id: &SandboxId, plan: &StartPlan, patience: Patience<'_>) -> Result<(), Error> {
        make_run_dir(self, id)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(|| Error::no_such_sandbox(id))?;
        self.write_env(id, &record.spec.env)?;
        let (tap, network) = match plan.network {
            NetworkMode::None => (None, None),
            NetworkMode::User => (None, Some(user_network(self, id))),
            NetworkMode::Tap => {
                let raised = network::raise(self, store, id, &entries)?;
                (Some(raised.fd), Some(raised.network))
            }
        };
        store.write(Commit::Raised, |w| -> Result<(), Error> {
            w.set_status(Kind::RunDir, id.as_str(), Status::Held)?;
            if plan.network == NetworkMode::Tap {
                w.set_status_of_kind(id, Kind::Tap, Status::Held)?;
                w.set_status_of_kind(id, Kind::NftElements, Status::Held)?;
            }
            Ok(())
        })?;
        let uid = entries.iter().find(|e| e.kind == Kind::Uid).and_then(|e| e.key.parse().ok());
        let config = MonitorConfig {
            settings: self.settings.clone(),
            id: id.to_string(),
            generation: record.generation,
            token: plan.token.to_string(),
            cpus: plan.cpus,
            memory_mib: plan.memory_mib,
            accelerator: plan.run.accelerator.clone(),
            kernel: plan.kernel.clone(),
            initramfs: plan.initramfs.clone(),
            image: plan.image.clone(),
            disk_bytes: plan.disk_bytes,
            machine_id: machine_id(self, id),
            uid,
            network,
        };
        let (mut child, socket) = perform_once(Effect::Monitor, |_| self.spawn_monitor(id, &config, tap))?;
        let answer = wait_for_report(socket, patience);
        // The monitor outlives this command. Should it have ended, it is reaped here.
        let _ = child.try_wait();
        answer
    }

    /// Starts the monitor in a process group of its own, out of reach of a terminal's Ctrl-C, its standard output a socket to this process.
    fn spawn_monitor(&self, id: &SandboxId, config: &MonitorConfig, tap: Option<OwnedFd>) -> Result<(Child, UnixStream), Error> {
        let fail = |e: std::io::Error| Error::new(io_code(&e), "the monitor cannot be started").because(e);
        let (ours, theirs) = UnixStream::pair().map_err(fail)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.paths().sandbox(id).join(MONITOR_LOG)).map_err(fail)?;
        #[expect(clippy::disallowed_methods, reason = "no tool to be waited for, but this program again, to stay")]
        let mut command = std::process::Command::new(&self.settings.program);
        command.arg0("smolvm").arg("monitor").arg(self.mark(id).to_string()).arg("--token").arg(&config.token);
        command.env_clear().current_dir("/").process_group(0);
        command.stdin(tap.map_or_else(Stdio::null, Stdio::from)).stdout(OwnedFd::from(theirs)).stderr(log);
        let child = command.spawn().map_err(fail)?;
        // The command's own copy of the socket's other end must go, or its end would never be seen.
        drop(command);
        let text =
            serde_json::to_vec(config).map_err(|e| Error::new(ErrorCode::Internal, "the monitor cannot be told what to do").because(e))?;
        let mut socket = ours;
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        socket.write_all(&length).and_then(|()| socket.write_all(&text)).map_err(fail)?;
        Ok((child, socket))
    }

    /// Takes back what a failed start made, and records why it failed.
    fn unwind(&self, store: &mut Store, id: &SandboxId, cause: Error) -> Error {
        let failure = Failure { code: cause.code.to_string(), message: cause.one_line(), during: "start".to_owned() };
        let outcome = self
            .release_run(store, id, State::Failed, Some(&failure))
            .and_then(|()| network::release_shared(self, store))
            .and_then(|parts| network::unreleased(&parts));
        match outcome {
            Ok(()) => cause,
            Err(e) => Error {
                recovery: Some(format!("what it left could not all be taken back ({}): smolvm delete {id}", e.one_line())),
                ..cause
            },
        }
    }

    /// Releases what a dead run left.
    pub(crate) fn reclaim(&self, store: &mut Store, record: &SandboxRecord) -> Result<SandboxRecord, Error> {
        self.release_run(store, &record.id, State::Stopped, None)?;
        let (record, _) = store.sandbox(&record.id)?.ok_or_else(|| Error::no_such_sandbox(&record.id))?;
        Ok(record)
    }

    /// Judges a request under the sandbox's lock.
    pub(crate) fn admit(&self, record: &SandboxRecord, entries: &[Entry], request: Request) -> Result<Admission, Error> {
        use smolvm_model::state::{Staleness, Verdict, admit};
        let freshness = match self.verdict(record, entries, Looker::Holder) {
            Verdict::Stale => Staleness::Stale,
            Verdict::Current | Verdict::Interrupted => Staleness::Fresh,
            Verdict::Unknown { evidence } => {
                return Err(Error::new(ErrorCode::Refused, format!("whether \"{}\" runs cannot be told: {evidence}", record.id))
                    .hint("smolvm doctor"));
            }
        };
        Ok(admit(record.state, freshness, request))
    }

    /// Releases everything of a run and moves the sandbox to `after`.
    pub(crate) fn release_run(&self, store: &mut Store, id: &SandboxId, after: State, failure: Option<&Failure>) -> Result<(), Error> {
        let report = self.remove_locked(store, std::slice::from_ref(id), Reason::Stop)?;
        let (record, _) = store.sandbox(id)?.ok_or_else(|| Error::no_such_sandbox(id))?;
        let left = report.failure(id).cloned();
        let state = if left.is_some() { State::Failed } else { after };
        let own = left.as_ref().map(|step| crate::delete::step_error(id, step)).map(|e| Failure {
            code: e.code.to_string(),
            message: e.one_line(),
            during: "stop".to_owned(),
        });
        store.write(Commit::After, |w| -> Result<(), Error> {
            w.set_state(id, record.generation, state)?;
            if let Some(failure) = failure.or(own.as_ref()) {
                w.set_failure(id, Some(failure))?;
            }
            Ok(())
        })?;
        match left {
            None => Ok(()),
            Some(step) => Err(crate::delete::step_error(id, &step)),
        }
    }
}

/// Records the state and every effect to come.
pub(crate) fn begin(store: &mut Store, record: &SandboxRecord, plan: &StartPlan) -> Result<(), Error> {
    let id = &record.id;
    let starting = next(record.state, Event::StartBegun)
        .ok_or_else(|| Error::new(ErrorCode::InvalidState, format!("\"{id}\" cannot be started now")))?;
    let entry = |kind, key: &str| Entry { sandbox: id.clone(), kind, key: key.to_owned(), status: Status::Intended, identity: None };
    store.write(Commit::Start, |w| -> Result<(), Error> {
        w.set_state(id, record.generation, starting)?;
        w.set_run(id, &plan.run)?;
        w.insert_entry(&entry(Kind::RunDir, id.as_str()))?;
        w.insert_entry(&entry(Kind::Process, plan.token.as_str()))?;
        w.insert_entry(&entry(Kind::Monitor, plan.token.as_str()))?;
        if plan.network == NetworkMode::Tap {
            w.set_status_of_kind(id, Kind::Tap, Status::Intended)?;
            w.set_status_of_kind(id, Kind::NftElements, Status::Intended)?;
        }
        Ok(())
    })
}

/// One start, decided.
#[derive(Debug)]
pub(crate) struct StartPlan {
    pub(crate) token: LaunchToken,
    run: Run,
    kernel: std::path::PathBuf,
    initramfs: std::path::PathBuf,
    image: std::path::PathBuf,
    network: NetworkMode,
    cpus: u8,
    memory_mib: u32,
    disk_bytes: u64,
}

/// One id per sandbox, the same at every start of it, and no secret.
fn machine_id(vm: &Smolvm, id: &SandboxId) -> String {
    smolvm_host::install::machine_id_for(&vm.mark(id))
}

/// In user mode each guest has a network of its own, so all have the same addresses in it (QEMU's customary ones).
fn user_network(vm: &Smolvm, id: &SandboxId) -> MonitorNetwork {
    let mac = smolvm_host::install::mac_for(&vm.mark(id)).to_string();
    MonitorNetwork::User { mac, address: Ipv4Addr::new(10, 0, 2, 15), gateway: Ipv4Addr::new(10, 0, 2, 2) }
}

/// How long a start is waited for.
#[derive(Debug, Clone, Copy)]
struct Patience<'a> {
    deadline: Duration,
    /// Readable once the caller was told to give up.
    signals: Option<BorrowedFd<'a>>,
}

/// Waits until the monitor has something to say.
fn wait_for_word(socket: &UnixStream, patience: Patience<'_>) -> Result<(), Error> {
    let late = || {
        Error::new(ErrorCode::Timeout, format!("the guest did not answer within {} s", patience.deadline.as_secs()))
            .hint("smolvm logs NAME shows its console; smolvm doctor shows how fast guests run here")
    };
    let until = Instant::now() + patience.deadline;
    let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
    fds.extend(patience.signals.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    loop {
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(late()),
            Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {
                return Err(Error::new(ErrorCode::Interrupted, "interrupted while the sandbox started"));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::new(ErrorCode::Internal, "the monitor cannot be waited for").because(e)),
        }
    }
}

fn wait_for_report(socket: UnixStream, patience: Patience<'_>) -> Result<(), Error> {
    wait_for_word(&socket, patience)?;
    let lost = |e: std::io::Error| Error::new(io_code(&e), "the monitor cannot be heard").because(e);
    // A monitor writes its line in one piece.
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(lost)?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).map_err(lost)?;
    match serde_json::from_str::<Report>(&line) {
        Ok(Report::Ready) => Ok(()),
        Ok(Report::Failed { code, message, recovery }) => {
            let code = ErrorCode::ALL.into_iter().find(|c| c.as_str() == code).unwrap_or(ErrorCode::Internal);
            Err(Error { recovery, ..Error::new(code, message) })
        }
        // It says why it cannot go on; what keeps it from that is a signal, or a defect that its log tells.
        Err(_) => Err(Error::new(ErrorCode::GuestError, "the monitor was killed before it could say anything")
            .hint("smolvm start NAME; smolvm logs NAME --log monitor")),
    }
}
