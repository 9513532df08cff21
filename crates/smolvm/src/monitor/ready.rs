//! From the agent's greeting to a guest that is proven to be the one that was asked for.
//!
//! ```text
//!   hello ─► boot(identity, seed, clock) ─► ready(what the guest reads back) ─► judged ─► recorded ─► the starter is told
//!        └─► park (a template in the making)            clock off ─► clock ─┘
//! ```
//!
//! The same for a guest that boots, for one that is forked from a template and for a copy of one that ran: a fork that kept anything of its
//! template's identity, its random numbers or its time must not run anybody's command. It fails closed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smolvm_host::image::template::DiskState;
use smolvm_host::store::{Run, Store};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::state::State;
use smolvm_proto::{BootConfig, Entropy, HostMessage, Ready, UnixTime};

use super::config::MonitorMemory;
use super::network;
use super::poll::Loop;
use super::report::Report;
use super::run::{note, random_bytes};
use crate::error::Error;

/// How far the guest's clock may be from the host's when the first command runs.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_millis(100);
/// A busy host may need some tries until the time arrives in time.
pub(super) const CLOCK_TRIES: u32 = 50;
/// The seed: what the guest's generator is made new with.
const SEED: usize = 64;

/// How far the run is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    /// Nobody may use it yet.
    Booting {
        /// What the guest said of itself, when all but its clock was right.
        ready: Option<Ready>,
        /// How often its clock was set again.
        corrections: u32,
    },
    /// It is a template now, and its hypervisor is ending.
    Parked,
    /// It takes commands.
    Running,
}

impl Loop<'_> {
    /// A fork's agent waits for nothing else, and speaks what the template's spoke: it need not be heard first.
    pub(super) fn tell_early(&mut self) -> Result<(), Error> {
        match self.config.memory {
            MonitorMemory::Fork | MonitorMemory::Restore { .. } => self.tell_who_it_is(),
            MonitorMemory::Boot | MonitorMemory::Park { .. } => Ok(()),
        }
    }

    /// Answers the agent's greeting.
    pub(super) fn tell_who_it_is(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(());
        }
        let message = match &self.config.memory {
            MonitorMemory::Park { disk, rehearse, .. } => HostMessage::Park {
                network: self.config.network.is_some(),
                fresh_disk: *disk == DiskState::Fresh,
                rehearse: rehearse.clone(),
            },
            MonitorMemory::Boot | MonitorMemory::Fork => HostMessage::Boot(self.boot_config()?),
            MonitorMemory::Restore { .. } => HostMessage::Restore(self.boot_config()?),
        };
        self.guest.tell(&message);
        Ok(())
    }

    fn boot_config(&self) -> Result<BootConfig, Error> {
        Ok(BootConfig {
            hostname: self.id.to_string(),
            machine_id: self.config.machine_id.clone(),
            time: now(),
            entropy: Entropy::new(random_bytes::<SEED>()?.to_vec())
                .map_err(|e| Error::new(ErrorCode::Internal, "the seed is too long").because(e))?,
            network: network::guest_config(self.config),
            data_disk: true,
            init: self.config.init,
        })
    }

    /// The guest says that it is what it was told to be.
    pub(super) fn is_ready(&mut self, ready: Ready) -> Result<(), Error> {
        let Phase::Booting { ready: None, .. } = self.phase else { return Ok(()) };
        let address = network::guest_config(self.config).map(|network| network.address);
        let wrong = if ready.hostname != self.id.as_str() || ready.machine_id != self.config.machine_id {
            Some("did not take its identity")
        } else if ready.address != address {
            Some("did not take its address")
        } else if usize::try_from(ready.entropy_bytes) != Ok(SEED) {
            Some("did not make its random numbers new")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(Error::new(ErrorCode::GuestError, format!("the guest {wrong}")));
        }
        let time = ready.time;
        self.phase = Phase::Booting { ready: Some(ready), corrections: 0 };
        self.judge_clock(time)
    }

    /// Holds the guest's clock against the host's, and sets it again when it is off.
    ///
    /// What the guest shows is older here by the way of its words, so a clock that passes is at least that good.
    pub(super) fn judge_clock(&mut self, shown: UnixTime) -> Result<(), Error> {
        let Phase::Booting { ready: Some(ready), corrections } = &mut self.phase else { return Ok(()) };
        if distance(shown, now()) <= CLOCK_TOLERANCE {
            let ready = ready.clone();
            self.record_ready()?;
            self.phase = Phase::Running;
            self.reporter.finish(&Report::Ready);
            note(&boot_times(&ready));
            return Ok(());
        }
        if *corrections == CLOCK_TRIES {
            return Err(Error::new(ErrorCode::GuestError, "the guest's clock cannot be set"));
        }
        *corrections += 1;
        self.guest.tell(&HostMessage::Clock { time: now() });
        Ok(())
    }

    fn record_ready(&self) -> Result<(), Error> {
        let mut store = Store::open(&self.vm.paths().database())?;
        let Some((record, _)) = store.sandbox(self.id)? else {
            return Err(Error::new(ErrorCode::Changed, "the sandbox was deleted while it started"));
        };
        let mut steps = self.steps.clone();
        steps.done("guest");
        let (enforced, agent) = (self.enforced.clone(), self.agent_version.clone().unwrap_or_default());
        let run = record.run.map(|run| Run { enforced, agent, steps: steps.taken(), ..run });
        store.write(Commit::Ready, |w| -> Result<(), Error> {
            w.set_state(self.id, self.config.generation, State::Running)?;
            if let Some(run) = &run {
                w.update_run(self.id, run)?;
            }
            Ok(())
        })
    }
}

pub(super) fn now() -> UnixTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime { secs: now.as_secs(), nanos: now.subsec_nanos() }
}

/// A guest may say any number.
pub(super) fn distance(one: UnixTime, other: UnixTime) -> Duration {
    let since_epoch = |time: UnixTime| Duration::from_secs(time.secs).saturating_add(Duration::from_nanos(time.nanos.into()));
    since_epoch(one).abs_diff(since_epoch(other))
}

/// Where the guest says its boot time went, for whoever wonders about a slow start. Its words are a guest's: capped and made plain.
fn boot_times(ready: &Ready) -> String {
    let plain = |step: &str| step.chars().filter(char::is_ascii_alphanumeric).take(16).collect::<String>();
    let steps: Vec<String> = ready.steps.iter().take(24).map(|s| format!("{} {} us", plain(&s.step), s.us)).collect();
    format!("the guest was ready {} ms after its kernel started: {}", ready.uptime_ms, steps.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_compared_both_ways_and_at_any_distance() {
        let at = |secs, nanos| UnixTime { secs, nanos };
        assert_eq!(distance(at(10, 0), at(9, 950_000_000)), Duration::from_millis(50));
        assert_eq!(distance(at(9, 950_000_000), at(10, 0)), Duration::from_millis(50));
        assert!(distance(at(0, 0), now()) > CLOCK_TOLERANCE);
        assert!(distance(at(u64::MAX, u32::MAX), at(0, 0)) > CLOCK_TOLERANCE);
    }
}
