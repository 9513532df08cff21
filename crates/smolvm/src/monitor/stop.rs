//! How a run is brought to its end, and what is done when the hypervisor is gone.
//!
//! ```text
//!   stop ─► the agent ends processes and syncs ─► its word ─► quit ─► the hypervisor ends ─► how, written down
//!              └── too long ──────────────────────────────────────► kill ──┘
//! ```

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use smolvm_host::effect::perform;
use smolvm_host::proc::kill;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_proto::{AgentMessage, FrameKind, HostMessage, decode};

use super::exit;
use super::log::drain_rest;
use super::poll::Loop;
use super::ready::Phase;
use crate::error::Error;

/// From the agent's word that all is synced to the hypervisor's end: QEMU has only to close its files.
pub(super) const AFTER_HALT: Duration = Duration::from_secs(3);
/// What a guest may take to end processes and sync, beyond the grace it was given.
const SYNC_TIME: Duration = Duration::from_secs(20);
/// Reads of what a hypervisor left in its pipes and sockets: more than the kernel keeps in them.
const LAST_WORDS: usize = 64;

impl Loop<'_> {
    /// The hypervisor is gone: say so to whoever waits, and write down how it went.
    pub(super) fn ended(mut self) -> Result<(), Error> {
        // What it said last may still lie in the pipes.
        self.hear_vmm();
        for _ in 0..LAST_WORDS {
            drain_rest(&mut self.console, &mut self.console_log);
            drain_rest(&mut self.stderr, &mut self.hypervisor_log);
            let Ok(frames) = self.guest.read() else { continue };
            for frame in frames {
                match frame.kind {
                    FrameKind::Control => self.evidence.halted |= matches!(decode(&frame.payload), Ok(AgentMessage::Halted)),
                    FrameKind::Open | FrameKind::StreamControl => {}
                    FrameKind::Data | FrameKind::Eof | FrameKind::Credit | FrameKind::Exit | FrameKind::Reset => self.deliver(frame),
                }
            }
        }
        self.flush();
        let end = exit::reap(&self.pidfd);
        match self.phase {
            Phase::Booting { .. } => return Err(self.died_at_boot()),
            Phase::Parked => return Ok(()),
            Phase::Running => {}
        }
        exit::finish(&mut self, end)
    }

    fn died_at_boot(&self) -> Error {
        let (console, words) = (self.console_log.last_lines(3), self.hypervisor_log.last_lines(2));
        let what = if self.console_log.mentions("Kernel panic") {
            "the guest's kernel panicked at boot"
        } else {
            "the hypervisor ended before the guest answered"
        };
        let detail: Vec<String> = [console, words].into_iter().filter(|t| !t.is_empty()).collect();
        let text = if detail.is_empty() { what.to_owned() } else { format!("{what}: {}", detail.join(" | ")) };
        Error::new(ErrorCode::GuestError, text).hint(format!("smolvm logs {}", self.id))
    }

    /// Begins an orderly stop; the hypervisor is killed if the guest takes too long.
    pub(super) fn begin_stop(&mut self, grace: Duration) {
        let again = std::mem::replace(&mut self.evidence.stop_requested, true);
        if self.guest.is_closed() {
            return self.quit();
        }
        self.set_going();
        if !again {
            self.guest.tell(&HostMessage::Shutdown { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) });
        }
        self.kill_within(grace + SYNC_TIME);
    }

    /// Ends the hypervisor without asking the guest.
    pub(super) fn quit(&mut self) {
        if !self.quitting {
            self.quitting = true;
            self.vmm.quit();
        }
        self.kill_within(AFTER_HALT);
    }

    /// Brings the hypervisor's last moment nearer; nothing puts it off again.
    pub(super) fn kill_within(&mut self, time: Duration) {
        let at = Instant::now() + time;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    pub(super) fn kill_now(&mut self) {
        self.evidence.stop_requested = true;
        self.evidence.killed = true;
        let _ = perform(Effect::EndHypervisors, |_| kill::kill(&self.pidfd));
    }

    pub(super) fn tell_stoppers(&mut self, bytes: &[u8]) {
        for client in self.clients.iter_mut().filter(|c| self.stoppers.contains(&c.id)) {
            client.out.buffer().extend_from_slice(bytes);
            let _ = client.out.flush(client.socket.as_fd());
        }
    }
}
