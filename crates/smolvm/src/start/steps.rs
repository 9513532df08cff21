//! Where the time of one start went, over the processes that take part in it.
//!
//! ```text
//!   command   plan ─► record ─► host ──┐                             each step is what has passed since the one before
//!   monitor                            └─► monitor ─► hypervisor ─► guest
//! ```
//!
//! All read the clock that runs since the host booted, which is one for all processes and never set.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use smolvm_host::store::Step;

/// The steps so far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Steps {
    last_us: u64,
    taken: Vec<Step>,
}

impl Steps {
    /// The start begins.
    pub(crate) fn begin() -> Self {
        Self { last_us: now_us(), taken: Vec::new() }
    }

    /// A step is done.
    pub(crate) fn done(&mut self, step: &str) {
        self.done_at(step, now_us());
    }

    fn done_at(&mut self, step: &str, now: u64) {
        self.taken.push(Step { step: step.to_owned(), us: now.saturating_sub(self.last_us) });
        self.last_us = now;
    }

    /// All of them.
    pub(crate) fn taken(self) -> Vec<Step> {
        self.taken
    }
}

fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (secs, micros) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec / 1000).unwrap_or(0));
    secs.saturating_mul(1_000_000).saturating_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_survive_the_way_to_another_process() {
        let mut steps = Steps { last_us: 100, taken: Vec::new() };
        steps.done_at("one", 150);
        let mut there: Steps = serde_json::from_str(&serde_json::to_string(&steps).unwrap()).unwrap();
        there.done_at("two", 400);
        // A clock that went back is none, and takes nothing away.
        there.done_at("three", 300);
        let taken = there.taken();
        let seen: Vec<(&str, u64)> = taken.iter().map(|step| (step.step.as_str(), step.us)).collect();
        assert_eq!(seen, [("one", 50), ("two", 250), ("three", 0)]);
    }
}
