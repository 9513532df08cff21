//! Halts the guest where it stands, and lets it go on.
//!
//! ```text
//!   Running ──stop──► Pausing ──STOP──► Paused ──cont──► Resuming ──RESUME, clock right──► Running
//! ```
//!
//! The hypervisor's events decide, not what it was told: a guest that it halts by itself is paused, too. A guest that
//! was halted has missed the time that passed, so it is given the time before anybody is told that it runs.

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
    /// The hypervisor was told to halt them.
    Pausing,
    /// They do not.
    Paused,
    /// The hypervisor was told to let them go on.
    Resuming {
        /// How often the guest was given the time since.
        corrections: u32,
    },
}

impl Loop<'_> {
    /// A client wants the guest halted.
    pub(super) fn pause(&mut self, id: ClientId) {
        if self.motion == Motion::Paused {
            return self.reply(id, &MonitorReply::Paused);
        }
        self.drive(id, "stop", Motion::Pausing);
    }

    /// A client wants it to go on.
    pub(super) fn resume(&mut self, id: ClientId) {
        if self.motion == Motion::Running {
            return self.reply(id, &MonitorReply::Resumed);
        }
        self.drive(id, "cont", Motion::Resuming { corrections: 0 });
    }

    /// It is the client's effect, which passes the gate there.
    fn drive(&mut self, id: ClientId, command: &'static str, motion: Motion) {
        if self.phase != Phase::Running || self.evidence.stop_requested {
            let message = "the guest is not ready".to_owned();
            return self.reply(id, &MonitorReply::Error { code: MonitorErrorCode::GuestNotReady, message });
        }
        self.vmm.say(command);
        self.motion = motion;
        self.movers.push(id);
    }

    /// What the hypervisor tells.
    pub(super) fn heard_of_vmm(&mut self, news: News) {
        match news {
            News::Shutdown(reason) => self.evidence.shutdown_reason = Some(reason),
            News::Stopped => {
                self.motion = Motion::Paused;
                self.tell_movers(&MonitorReply::Paused);
            }
            News::Resumed => match self.motion {
                // A guest that can no longer be talked to cannot be given the time either, and does run.
                Motion::Resuming { .. } if self.guest.is_closed() => {
                    self.motion = Motion::Running;
                    self.tell_movers(&MonitorReply::Resumed);
                }
                Motion::Resuming { .. } => self.guest.tell(&HostMessage::Clock { time: now() }),
                Motion::Running | Motion::Pausing | Motion::Paused => self.motion = Motion::Running,
            },
        }
    }

    /// The guest shows its clock: at its start, or after it was resumed.
    pub(super) fn heard_of_clock(&mut self, shown: UnixTime) -> Result<(), Error> {
        let Motion::Resuming { corrections } = self.motion else { return self.judge_clock(shown) };
        if distance(shown, now()) <= CLOCK_TOLERANCE {
            self.motion = Motion::Running;
            self.tell_movers(&MonitorReply::Resumed);
        } else if corrections < CLOCK_TRIES {
            self.motion = Motion::Resuming { corrections: corrections + 1 };
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
            self.motion = Motion::Running;
            self.vmm.say("cont");
        }
    }

    fn tell_movers(&mut self, reply: &MonitorReply) {
        for id in std::mem::take(&mut self.movers) {
            self.reply(id, reply);
        }
    }

    fn reply(&mut self, id: ClientId, reply: &MonitorReply) {
        if let Ok(payload) = encode(reply) {
            self.answer(id, &Frame::control(payload));
        }
    }
}
