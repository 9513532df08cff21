//! Halts the guest where it stands, and lets it go on.
//!
//! ```text
//!   Running ──freeze──► Settling ──frozen──► Pausing ──STOP──► Paused ──cont──► Resuming ──RESUME, clock right──► Running
//!                          └──── no answer ────┘
//! ```
//!
//! The guest is first told to come to rest: then no message is half way when it stands, and it can be copied. One that
//! does not answer is halted all the same.
//!
//! The hypervisor's events decide, not what it was told: a guest that it halts by itself is paused, too. A guest that
//! was halted has missed the time that passed, so it is given the time before anybody is told that it runs.

use std::time::{Duration, Instant};

use smolvm_proto::{Frame, HostMessage, MonitorErrorCode, MonitorReply, UnixTime, encode};

use super::poll::Loop;
use super::ready::{CLOCK_TOLERANCE, CLOCK_TRIES, Phase, distance, now};
use super::relay::ClientId;
use super::vmm::News;
use crate::error::Error;

/// Whether the guest's processors run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Motion {
    /// They do.
    #[default]
    Running,
    /// The guest was told to come to rest.
    Settling {
        /// When it has had its time.
        until: Instant,
    },
    /// The hypervisor was told to halt them.
    Pausing,
    /// They do not.
    Paused,
    /// The hypervisor was told to let them go on.
    Resuming {
        /// How often the guest was given the time since.
        corrections: u32,
        /// When nobody waits any longer for its clock.
        until: Instant,
    },
}

/// What a guest that goes on gets until its clock is right. One that is still writing out its disk answers after that.
const WAKING: Duration = Duration::from_secs(15);

/// What a guest that is to be paused gets to come to rest: a round trip, on a busy host.
const SETTLING: Duration = Duration::from_secs(1);

impl Loop<'_> {
    /// A client wants the guest halted. It is the client's effect, which passes the gate there.
    pub(super) fn pause(&mut self, id: ClientId) {
        if self.motion == Motion::Paused {
            return self.reply(id, &MonitorReply::Paused);
        }
        if self.is_movable(id) {
            // One way at a time: it has heard that it goes on, and would take that for the answer.
            if matches!(self.motion, Motion::Resuming { .. }) {
                return self.pausers.push(id);
            }
            self.movers.push(id);
            self.settle(false, SETTLING);
        }
    }

    /// A client wants it to go on.
    pub(super) fn resume(&mut self, id: ClientId) {
        if self.motion == Motion::Running {
            return self.reply(id, &MonitorReply::Resumed);
        }
        if self.is_movable(id) {
            // The last word counts: who waited to have it halted hears that it runs.
            self.movers.append(&mut self.pausers);
            self.movers.push(id);
            self.go_on();
        }
    }

    /// Whether the guest runs as far as its monitor is concerned; if not, the client is told.
    pub(super) fn is_movable(&mut self, id: ClientId) -> bool {
        let ready = self.phase == Phase::Running && !self.evidence.stop_requested;
        if !ready {
            self.refuse(id, MonitorErrorCode::GuestNotReady, "the guest is not ready");
        }
        ready
    }

    /// Tells the guest to come to rest, and halts it then.
    pub(super) fn settle(&mut self, sync: bool, patience: Duration) {
        self.quiet = false;
        if self.guest.is_closed() {
            return self.halt();
        }
        self.freezes += 1;
        self.guest.tell(&HostMessage::Freeze { sync, seq: self.freezes });
        self.guest.hold();
        self.motion = Motion::Settling { until: Instant::now() + patience };
    }

    fn halt(&mut self) {
        self.vmm.say("stop");
        self.motion = Motion::Pausing;
    }

    /// The guest says that it is at rest.
    pub(super) fn has_settled(&mut self, seq: u64) {
        if matches!(self.motion, Motion::Settling { .. }) && seq == self.freezes {
            self.quiet = true;
            self.halt();
        }
    }

    /// When something about its motion is to be decided although nobody says anything.
    pub(super) fn motion_deadline(&self) -> Option<Instant> {
        match self.motion {
            Motion::Settling { until } | Motion::Resuming { until, .. } => Some(until),
            Motion::Running | Motion::Pausing | Motion::Paused => None,
        }
    }

    /// The guest has had its time.
    pub(super) fn look_at_the_time(&mut self) {
        if self.motion_deadline().is_none_or(|until| Instant::now() < until) {
            return;
        }
        match self.motion {
            Motion::Settling { .. } => {
                if !self.gives_up_on_a_copy() {
                    self.halt();
                }
            }
            // What it is sent waits for it in its line, as it does with any guest that is busy.
            Motion::Resuming { .. } => {
                self.motion = Motion::Running;
                let message = "the guest goes on, but has not said that its clock is right".to_owned();
                self.tell_movers(&MonitorReply::Error { code: MonitorErrorCode::Timeout, message });
            }
            Motion::Running | Motion::Pausing | Motion::Paused => {}
        }
    }

    /// From wherever the way to a halt has come to.
    pub(super) fn go_on(&mut self) {
        self.quiet = false;
        let waking = Motion::Resuming { corrections: 0, until: Instant::now() + WAKING };
        match self.motion {
            Motion::Running | Motion::Resuming { .. } => {}
            // Not halted yet: it only has to hear that it need not be.
            Motion::Settling { .. } if !self.guest.is_closed() => {
                self.motion = waking;
                self.wake();
            }
            Motion::Settling { .. } => {
                self.motion = Motion::Running;
                self.tell_movers(&MonitorReply::Resumed);
            }
            Motion::Pausing | Motion::Paused => {
                self.vmm.say("cont");
                self.motion = waking;
            }
        }
    }

    /// The first word to a guest that goes on: the time. Then comes what waited for it.
    fn wake(&mut self) {
        self.guest.tell(&HostMessage::Clock { time: now() });
        self.guest.release();
    }

    /// What the hypervisor tells.
    pub(super) fn heard_of_vmm(&mut self, news: News) {
        match news {
            News::Shutdown(reason) => self.evidence.shutdown_reason = Some(reason),
            News::Stopped => {
                self.motion = Motion::Paused;
                self.tell_movers(&MonitorReply::Paused);
                self.halted_for_a_copy();
            }
            News::Answered(command, outcome) => self.answered(command, outcome),
            News::Resumed => {
                self.take_back_descriptors();
                self.runs_again();
            }
        }
    }

    fn runs_again(&mut self) {
        match self.motion {
            // A guest that can no longer be talked to cannot be given the time either, and does run.
            Motion::Resuming { .. } if self.guest.is_closed() => {
                self.motion = Motion::Running;
                self.tell_movers(&MonitorReply::Resumed);
            }
            Motion::Resuming { .. } => self.wake(),
            // That is no news. Whoever says it again and again is not answered each time.
            Motion::Running | Motion::Settling { .. } => {}
            Motion::Pausing | Motion::Paused => {
                self.quiet = false;
                self.motion = Motion::Running;
                self.wake();
            }
        }
    }

    /// The guest shows its clock: at its start, or after it was resumed.
    pub(super) fn heard_of_clock(&mut self, shown: UnixTime) -> Result<(), Error> {
        let Motion::Resuming { corrections, until } = self.motion else { return self.judge_clock(shown) };
        if distance(shown, now()) <= CLOCK_TOLERANCE {
            self.motion = Motion::Running;
            self.tell_movers(&MonitorReply::Resumed);
        } else if corrections < CLOCK_TRIES {
            self.motion = Motion::Resuming { corrections: corrections + 1, until };
            self.guest.tell(&HostMessage::Clock { time: now() });
        } else {
            self.motion = Motion::Running;
            let message = "the guest runs, but its clock cannot be set".to_owned();
            self.tell_movers(&MonitorReply::Error { code: MonitorErrorCode::Engine, message });
        }
        Ok(())
    }

    /// A guest that is to shut itself down must run.
    pub(super) fn set_going(&mut self) {
        if self.motion != Motion::Running {
            self.quiet = false;
            self.motion = Motion::Running;
            self.vmm.say("cont");
            self.wake();
        }
    }

    fn tell_movers(&mut self, reply: &MonitorReply) {
        for id in std::mem::take(&mut self.movers) {
            self.reply(id, reply);
        }
        let pausers = std::mem::take(&mut self.pausers);
        match self.motion {
            Motion::Running if !pausers.is_empty() => {
                self.movers = pausers;
                self.settle(false, SETTLING);
            }
            Motion::Paused => pausers.into_iter().for_each(|id| self.reply(id, &MonitorReply::Paused)),
            Motion::Running | Motion::Settling { .. } | Motion::Pausing | Motion::Resuming { .. } => self.pausers = pausers,
        }
    }

    pub(super) fn refuse(&mut self, id: ClientId, code: MonitorErrorCode, message: &str) {
        self.reply(id, &MonitorReply::Error { code, message: message.to_owned() });
    }

    pub(super) fn reply(&mut self, id: ClientId, reply: &MonitorReply) {
        if let Ok(payload) = encode(reply) {
            self.answer(id, &Frame::control(payload));
        }
    }
}
