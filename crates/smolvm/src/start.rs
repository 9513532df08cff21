//! `start`: fork or boot a sandbox, and wait for its agent.
//!
//! ```text
//!   lock ─► admit ─► check ─► template ─► record intents ─┬► disk, run dir, TAP ─► handed over ─► (it starts the hypervisor, records) ─► ready
//!                                   │                      └► monitor, told what ────┘ │   └► rules, memory ─► "go on" ─┴► the guest runs
//!                                   │                                                  └─ failed, silent: unwind ─► Failed
//!                                   └─ killed here or later: the row says `starting`, the ledger what to look for
//! ```
//!
//! The monitor is started while all that it needs is made, and makes its hypervisor's jail meanwhile. One that is handed nothing ends, and with it whoever waits in that jail.
//!
//! Invariant: no guest runs before its rules are in place. One that boots is started after them; one that goes on where it, or what it is a
//! copy of, was parked waits for a word ([`StartPlan::awaits_word`]), so that they are made while its hypervisor starts.

mod let_go;
mod monitor;
mod plan;
mod steps;
mod wait;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use smolvm_host::effect::{perform, perform_once};
use smolvm_host::fsx::{FsError, copy_data};
use smolvm_host::image::template::{DiskState, Draft, Opened};
use smolvm_host::store::{Failure, SandboxRecord, Store};
use smolvm_host::threads::beside;
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::spec::NetworkMode;
use smolvm_model::state::{Admission, Event, Request, State, next};
use smolvm_model::teardown::Reason;

use crate::create::{Made, make_run_dir};
use crate::error::{Error, io_code};
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::monitor::{MonitorMemory, Report};
use crate::network;
use crate::observe::Looker;
use crate::view::SandboxView;

use let_go::raised;
use monitor::{MonitorProcess, hand_over};
use plan::disk_of;
pub(crate) use plan::{BOOTED, CopyOf, Machine, StartPlan};
pub use steps::Steps;
pub(crate) use wait::Patience;
use wait::wait_for_report;

/// How long a boot may take until the agent answers; TCG boots in about one second.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Where a guest comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// From a template, which is made if there is none; where that cannot be, it boots.
    #[default]
    Template,
    /// It boots.
    Boot,
}

/// How a sandbox is to be started.
#[derive(Debug, Clone, Copy)]
pub struct StartOptions {
    /// Another accelerator than the one it was created with.
    pub accelerator: Option<AcceleratorRequest>,
    /// Where the guest comes from.
    pub from: StartFrom,
    /// How long it may take.
    pub deadline: Duration,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self { accelerator: None, from: StartFrom::Template, deadline: DEADLINE }
    }
}

impl Smolvm {
    /// Starts a sandbox; returns when its agent has answered. One that runs already is left alone.
    pub fn start(&self, id: &SandboxId, options: StartOptions) -> Result<SandboxView, Error> {
        self.start_unless(id, options, None)
    }

    /// The same, given up and taken back as soon as `signals` can be read.
    pub(crate) fn start_unless(
        &self,
        id: &SandboxId,
        options: StartOptions,
        signals: Option<BorrowedFd<'_>>,
    ) -> Result<SandboxView, Error> {
        let patience = Patience::new(options.deadline, signals);
        let steps = Steps::begin();
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
        let plan = self.plan_start(&record.spec, options.accelerator, disk_of(&record))?;
        let plan = self.choose_origin(plan, &record.spec, options.from, patience)?;
        match self.carry_out(&mut store, &record, &plan, steps, patience) {
            Ok(Came::Up) => {}
            Ok(Came::NotForked(why)) => {
                // What this template did wrong, the next one may do right; the sandbox does not wait for it.
                self.release_run(&mut store, id, State::Stopped, None)?;
                self.discard_template(&plan);
                let (record, _) = store.sandbox(id)?.ok_or_else(missing)?;
                let reason = format!("the template could not be forked: {}", why.one_line());
                let plan = self.plan_start(&record.spec, options.accelerator, disk_of(&record))?.boots(reason);
                self.carry_out(&mut store, &record, &plan, Steps::begin(), patience)
                    .map_err(|e| self.unwind(&mut store, id, e.about(id)))?;
            }
            Err(e) => return Err(self.unwind(&mut store, id, e.about(id))),
        }
        Ok(self.inspect(id)?.sandbox)
    }

    /// Starts what becomes a template; it is parked instead of running, and its monitor ends.
    pub(crate) fn start_parked(&self, id: &SandboxId, draft: &Draft, disk: DiskState, patience: Patience<'_>) -> Result<(), Error> {
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, _) = store.sandbox(id)?.ok_or_else(missing)?;
        let steps = Steps::begin();
        let plan = self.plan_start(&record.spec, None, disk)?.parks(draft);
        self.carry_out(&mut store, &record, &plan, steps, patience).map(drop)
    }

    /// Starts a sandbox that has the disk of a machine that ran, as that machine; on failure it is the caller's to delete.
    pub(crate) fn start_copy(
        &self,
        made: &Made,
        machine: Machine<'_>,
        plan: Option<StartPlan>,
        patience: Patience<'_>,
    ) -> Result<(), Error> {
        let id = &made.id;
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, _) = store.sandbox(id)?.ok_or_else(missing)?;
        // The memory belongs to the disk that was made with it, and to no other.
        if record.seq != made.seq || record.state != State::Created {
            return Err(Error::new(ErrorCode::Changed, format!("\"{id}\" was changed by another command while it was made")));
        }
        let steps = Steps::begin();
        let plan = match plan {
            Some(plan) => plan,
            None => self.plan_start(&record.spec, Some(machine.accelerator), DiskState::Used)?,
        };
        let plan = plan.restores(machine);
        self.carry_out(&mut store, &record, &plan, steps, patience).map(drop)
    }

    /// Records and makes what was decided.
    fn carry_out(
        &self,
        store: &mut Store,
        record: &SandboxRecord,
        plan: &StartPlan,
        mut steps: Steps,
        patience: Patience<'_>,
    ) -> Result<Came, Error> {
        steps.done("plan");
        let look = (plan.network == NetworkMode::Tap).then(|| network::Look::begin(self));
        begin(store, record, plan)?;
        steps.done("record");
        self.bring_up(store, &record.id, plan, look, steps, patience)
    }

    fn bring_up(
        &self,
        store: &mut Store,
        id: &SandboxId,
        plan: &StartPlan,
        look: Option<network::Look>,
        mut steps: Steps,
        patience: Patience<'_>,
    ) -> Result<Came, Error> {
        let template = plan.template.as_ref().filter(|_| plan.facts.disk == DiskState::Fresh);
        let from = match template.map(Opened::disk).transpose() {
            Ok(from) => from,
            // It was removed since it was chosen.
            Err(e) => return Ok(Came::NotForked(Error::new(io_code(&e), "the template's disk cannot be opened").because(e))),
        };
        let (record, entries) = store.sandbox(id)?.ok_or_else(|| Error::no_such_sandbox(id))?;
        let config = self.monitor_config(store, &record, &entries, plan)?;
        let (monitor, parts) = beside(
            || perform_once(Effect::Monitor, |_| self.spawn_monitor(id, &config)),
            || self.make_parts(store, (&record, &entries), plan, from.as_ref(), look),
        );
        let (MonitorProcess { mut child, socket }, Parts { look, tap }) = (monitor?, parts?);
        steps.done("host");
        hand_over(&socket, &steps, plan.template.as_ref(), tap.as_ref())?;
        drop(tap);
        let let_go = if plan.awaits_word() { self.let_go(store, &entries, plan, look, (id, &socket), patience) } else { Ok(patience) };
        let answer = let_go.and_then(|patience| wait_for_report(socket, patience));
        // The monitor outlives this command. Should it have ended, it is reaped here.
        let _ = child.try_wait();
        match (answer?, &plan.memory) {
            (Report::Parked, MonitorMemory::Park { .. })
            | (Report::Ready, MonitorMemory::Boot | MonitorMemory::Fork | MonitorMemory::Restore { .. }) => Ok(Came::Up),
            (Report::Ready | Report::Parked, _) => Err(Error::new(ErrorCode::Internal, "the monitor did something else than it was told")),
            (report @ Report::Failed { .. }, _) => match (report.error(), plan.is_fork()) {
                (e, true) if e.code == ErrorCode::GuestError => Ok(Came::NotForked(e)),
                (e, _) => Err(e),
            },
        }
    }

    /// Makes what a monitor waits for. `from` is the disk of the template that it is forked from.
    fn make_parts(
        &self,
        store: &mut Store,
        (record, entries): (&SandboxRecord, &[Entry]),
        plan: &StartPlan,
        from: Option<&File>,
        look: Option<network::Look>,
    ) -> Result<Parts, Error> {
        let id = &record.id;
        match from {
            Some(from) => perform(Effect::DataDisk, |_| self.renew_disk(id, from, plan.disk_bytes))?,
            None => self.own_disk(id, plan.disk_bytes)?,
        }
        make_run_dir(self, id)?;
        self.write_env(id, &record.spec)?;
        let look = match look {
            Some(look) if !plan.awaits_word() => network::admit(self, store, id, entries, look).map(|()| None)?,
            other => other,
        };
        let tap = match plan.network {
            NetworkMode::None | NetworkMode::User => None,
            NetworkMode::Tap => Some(network::raise(self, store, id, entries)?),
        };
        if !plan.awaits_word() {
            raised(store, id, plan)?;
        }
        Ok(Parts { look, tap })
    }

    /// Puts a copy of what the template has mounted in the place of a disk with nothing on it.
    fn renew_disk(&self, id: &SandboxId, from: &File, bytes: u64) -> Result<(), Error> {
        let (copy, disk) = (self.paths().new_disk(id), self.paths().disk(id));
        let make = || File::options().write(true).create_new(true).mode(0o600).open(&copy);
        let opened = match make() {
            // Left by a start that was killed.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => std::fs::remove_file(&copy).and_then(|()| make()),
            other => other,
        };
        let target = opened.map_err(FsError::on("make", &copy))?;
        copy_data(from, &target, bytes).map_err(FsError::on("copy into", &copy))?;
        Ok(std::fs::rename(&copy, &disk).map_err(FsError::on("replace", &disk))?)
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

/// What was made while the monitor got ready, and is not in its place.
struct Parts {
    /// At the rules, where these are not made yet.
    look: Option<network::Look>,
    tap: Option<OwnedFd>,
}

/// What came of a start of which nothing else failed.
enum Came {
    /// It is up, or parked.
    Up,
    /// The monitor says that the template, or the guest that was forked from it, is of no use: booting may be.
    NotForked(Error),
}
