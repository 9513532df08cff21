//! Lets one client copy the guest while it stands still.
//!
//! ```text
//!   locate ─► where its memory is       freeze ─► at rest, halted, devices written, disk laid over ─► thaw, or the client is gone
//!             (the client reads ahead)            (the client reads what changed since)                   └─► as it was before
//! ```
//!
//! The client holds the sandbox's lock and does the work; what only the hypervisor's parent can do is done here. What it
//! was promised ends with its connection: a client that is killed leaves a guest that runs.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use smolvm_host::engine::migration;
use smolvm_proto::{MonitorErrorCode, MonitorReply};

use super::pause::Motion;
use super::poll::Loop;
use super::relay::ClientId;
use crate::error::{Error, io_code};

/// What a guest gets to come to rest, with all that it holds back for its disk.
const SETTLING: Duration = Duration::from_secs(20);
/// How long one client may keep the guest from its work: copying 10 GiB takes less.
const LONGEST: Duration = Duration::from_mins(10);

/// A copy under way.
#[derive(Debug)]
pub(super) struct Copying {
    client: ClientId,
    step: Step,
    /// Whether the guest was paused before, and stays so.
    was_paused: bool,
    /// When a client that has had it brought to rest has had its time.
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The hypervisor was asked, in a command of this number, where its guest is.
    Locating(u64),
    /// The client knows.
    Located,
    /// The guest is coming to rest.
    Settling,
    /// The hypervisor is writing, in answer to the command of this number.
    Saving(u64),
    /// It puts another layer over the disk, in answer to the command of this number.
    Layering(u64),
    /// All is there.
    Frozen,
}

impl Copying {
    /// Whether this client was told where the guest is, and has not asked for more yet.
    pub(super) fn is_located_by(id: ClientId) -> impl Fn(&Self) -> bool {
        move |copying| copying.client == id && copying.step == Step::Located
    }

    /// Whether the guest was paused before, and stays so.
    pub(super) fn was_paused(&self) -> bool {
        self.was_paused
    }
}

impl Loop<'_> {
    /// A client wants to copy the guest.
    pub(super) fn locate(&mut self, id: ClientId) {
        if !self.is_movable(id) {
            return;
        }
        match &self.copying {
            None => {}
            Some(copying) if copying.client != id => {
                return self.refuse(id, MonitorErrorCode::Busy, "another command is copying this sandbox");
            }
            // To begin anew would forget that its guest stands still, and that it ran.
            Some(copying) if copying.step == Step::Located => {}
            Some(_) => return self.refuse(id, MonitorErrorCode::Busy, "the sandbox is being copied"),
        }
        let (name, arguments) = migration::locate();
        let step = Step::Locating(self.vmm.ask(name, Some(arguments)));
        self.copying = Some(Copying { client: id, step, was_paused: self.motion == Motion::Paused, until: Instant::now() + LONGEST });
    }

    /// It wants it to stand still.
    pub(super) fn freeze(&mut self, id: ClientId, sync: bool, layer: Option<u32>) {
        if self.copying.as_ref().is_some_and(|copying| copying.client == id && copying.step == Step::Located)
            && matches!(self.motion, Motion::Running | Motion::Paused)
            && let Some(number) = layer
        {
            self.open_layer(number);
        }
        let Some(copying) = self.copying.as_mut().filter(|copying| copying.client == id) else {
            return self.refuse(id, MonitorErrorCode::Unsupported, "where the guest is was not asked");
        };
        copying.until = Instant::now() + LONGEST;
        match (copying.step, self.motion) {
            (Step::Frozen, _) => self.reply(id, &MonitorReply::Frozen { layered: false }),
            (Step::Located, Motion::Running) => {
                copying.step = Step::Settling;
                self.settle(sync, SETTLING);
            }
            (Step::Located, Motion::Paused) => {
                copying.step = Step::Settling;
                self.halted_for_a_copy();
            }
            (Step::Locating(_) | Step::Located | Step::Settling | Step::Saving(_) | Step::Layering(_), _) => {
                self.refuse(id, MonitorErrorCode::Busy, "the sandbox is being paused or resumed");
            }
        }
    }

    /// It has what it wanted.
    pub(super) fn thaw(&mut self, id: ClientId) {
        match self.copying.take_if(|copying| copying.client == id) {
            Some(copying) => self.end_copy(&copying, Some(id)),
            None => self.reply(id, &MonitorReply::Resumed),
        }
    }

    /// A client is gone, and with it what it wanted.
    pub(super) fn forget_copy_of(&mut self, id: ClientId) {
        if let Some(copying) = self.copying.take_if(|copying| copying.client == id) {
            self.end_copy(&copying, None);
        }
    }

    fn end_copy(&mut self, copying: &Copying, told: Option<ClientId>) {
        self.close_unused_layer();
        if copying.was_paused {
            return told.into_iter().for_each(|id| self.reply(id, &MonitorReply::Paused));
        }
        if self.motion == Motion::Running {
            return told.into_iter().for_each(|id| self.reply(id, &MonitorReply::Resumed));
        }
        self.movers.extend(told);
        self.go_on();
    }

    /// When a client has had the guest for long enough.
    pub(super) fn copy_deadline(&self) -> Option<Instant> {
        let copying = self.copying.as_ref()?;
        match copying.step {
            // What is merged and copied ahead takes no time of the guest's, and nobody would wait for the answer.
            Step::Locating(_) | Step::Located => None,
            Step::Settling | Step::Saving(_) | Step::Layering(_) | Step::Frozen => Some(copying.until),
        }
    }

    /// It has.
    pub(super) fn end_overdue_copy(&mut self) {
        if self.copy_deadline().is_some_and(|until| until <= Instant::now()) {
            self.fail_copy(MonitorErrorCode::Timeout, "the guest was kept halted for too long");
        }
    }

    /// The guest did not come to rest in time. True: that is the end of a copy, and it runs on.
    pub(super) fn gives_up_on_a_copy(&mut self) -> bool {
        let copies = self.copying.as_ref().is_some_and(|copying| copying.step == Step::Settling);
        if copies {
            self.fail_copy(MonitorErrorCode::GuestNotReady, "the guest did not come to rest in time");
        }
        copies
    }

    /// The guest stands still; if that is for a copy, its devices are written.
    pub(super) fn halted_for_a_copy(&mut self) {
        if !self.copying.as_ref().is_some_and(|copying| copying.step == Step::Settling) {
            return;
        }
        if !self.quiet {
            return self.fail_copy(MonitorErrorCode::GuestNotReady, "the guest did not answer when it was halted; resume it first");
        }
        match self.save_devices() {
            Ok(command) => {
                if let Some(copying) = &mut self.copying {
                    copying.step = Step::Saving(command);
                }
            }
            Err(e) => self.fail_copy(MonitorErrorCode::Engine, &e.one_line()),
        }
    }

    /// It is the client's effect, which passes the gate there.
    ///
    /// Into a file beside the sandbox's disk, which the hypervisor may fill as far: it keeps what it was given, and takes
    /// nothing else than a file that it can truncate.
    fn save_devices(&mut self) -> Result<u64, Error> {
        let path = self.vm.paths().saved_devices(self.id);
        let fail = |e: std::io::Error| Error::new(io_code(&e), "the state of the devices cannot be written").because(e);
        // Another than the last time, whose descriptor it may still have.
        let _ = std::fs::remove_file(&path);
        let mut options = OpenOptions::new();
        // Open for writing only: QEMU takes no other for this.
        let file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        self.vmm.give(file.as_fd()).map_err(fail)?;
        let [add, save] = migration::save();
        let [_, number] = [add, save].map(|(name, arguments)| self.vmm.ask(name, Some(arguments)));
        self.take_back(migration::let_go());
        Ok(number)
    }

    /// The hypervisor answers a command.
    pub(super) fn answered(&mut self, command: u64, outcome: Result<Value, String>) {
        if self.answered_about_layers(command, outcome.is_ok()) {
            return;
        }
        let layers = self.disk.numbers();
        let saved = matches!((&self.copying, &outcome), (Some(Copying { step: Step::Saving(of), .. }), Ok(_)) if *of == command);
        if saved {
            return match self.put_layer_on() {
                Some(next) => self.copying.iter_mut().for_each(|copying| copying.step = Step::Layering(next)),
                None => self.is_frozen(false),
            };
        }
        let Some(copying) = &mut self.copying else { return };
        let id = copying.client;
        match (copying.step, outcome) {
            (Step::Locating(of), Ok(answer)) if of == command => match migration::located(&answer) {
                Some(address) => {
                    copying.step = Step::Located;
                    self.reply(id, &MonitorReply::Located { pid: self.pid, address, layers });
                }
                None => self.fail_copy(MonitorErrorCode::Engine, "the hypervisor does not say where its guest's memory is"),
            },
            // Without the layer the client copies the disk while the guest stands still.
            (Step::Layering(of), outcome) if of == command => self.is_frozen(outcome.is_ok()),
            (Step::Locating(of) | Step::Saving(of), Err(why)) if of == command => {
                let why: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
                self.fail_copy(MonitorErrorCode::Engine, &format!("the hypervisor refused: {why}"));
            }
            (Step::Locating(_) | Step::Located | Step::Settling | Step::Saving(_) | Step::Layering(_) | Step::Frozen, _) => {}
        }
    }

    fn is_frozen(&mut self, layered: bool) {
        let Some(copying) = &mut self.copying else { return };
        copying.step = Step::Frozen;
        let id = copying.client;
        self.reply(id, &MonitorReply::Frozen { layered });
    }

    fn fail_copy(&mut self, code: MonitorErrorCode, why: &str) {
        let Some(copying) = self.copying.take() else { return };
        self.refuse(copying.client, code, why);
        self.end_copy(&copying, None);
    }
}
