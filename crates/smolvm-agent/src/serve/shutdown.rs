//! The way out: SIGTERM, wait, SIGKILL, wait, sync, `halted`, power off.
//!
//! ```text
//!   Running ─► Asking (until all ended, or grace) ─► Killing (until all ended, or KILL_TIME) ─► Over
//! ```

use std::time::{Duration, Instant};

/// How long killed processes may take to go; what hangs in the kernel longer than this is left.
const KILL_TIME: Duration = Duration::from_secs(2);

/// The longest grace a host may ask for.
const MOST_GRACE: Duration = Duration::from_mins(10);

/// The grace when the guest itself asked to power off.
pub(crate) const OWN_GRACE: Duration = Duration::from_secs(2);

/// Where the shutdown stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Asking { until: Instant },
    Killing { until: Instant },
    Over,
}

/// What the agent has to do on a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Nothing,
    /// Send this signal to everything.
    Signal(i32),
    /// Sync, say `halted`, power off.
    Halt,
}

impl Phase {
    /// Somebody asked for the end. A second time, only a shorter grace counts.
    pub(crate) fn ask(&mut self, grace: Duration, now: Instant) -> Act {
        let until = now + grace.min(MOST_GRACE);
        match self {
            Self::Running => {
                *self = Self::Asking { until };
                Act::Signal(libc::SIGTERM)
            }
            Self::Asking { until: before } => {
                *before = until.min(*before);
                Act::Nothing
            }
            Self::Killing { .. } | Self::Over => Act::Nothing,
        }
    }

    /// Looks at the clock and at whether any process is left.
    pub(crate) fn step(&mut self, anyone_left: bool, now: Instant) -> Act {
        match *self {
            Self::Asking { .. } | Self::Killing { .. } if !anyone_left => {
                *self = Self::Over;
                Act::Halt
            }
            Self::Asking { until } if until <= now => {
                *self = Self::Killing { until: now + KILL_TIME };
                Act::Signal(libc::SIGKILL)
            }
            Self::Killing { until } if until <= now => {
                *self = Self::Over;
                Act::Halt
            }
            Self::Running | Self::Asking { .. } | Self::Killing { .. } | Self::Over => Act::Nothing,
        }
    }

    /// When to look again.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        match self {
            Self::Asking { until } | Self::Killing { until } => Some(*until),
            Self::Running | Self::Over => None,
        }
    }

    /// Whether new commands are refused.
    pub(crate) fn has_begun(&self) -> bool {
        *self != Self::Running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_then_force_then_over() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut phase = Phase::Running;
        assert_eq!(phase.step(true, at(0)), Act::Nothing);
        assert_eq!(phase.ask(Duration::from_millis(500), at(0)), Act::Signal(libc::SIGTERM));
        assert_eq!(phase.ask(Duration::from_millis(900), at(0)), Act::Nothing);
        assert_eq!(phase.step(true, at(499)), Act::Nothing);
        assert_eq!(phase.step(true, at(500)), Act::Signal(libc::SIGKILL));
        assert_eq!(phase.step(true, at(501)), Act::Nothing);
        assert_eq!(phase.step(true, at(2500)), Act::Halt);
        assert_eq!(phase.step(false, at(9999)), Act::Nothing);
    }

    #[test]
    fn nobody_left_means_no_waiting() {
        let now = Instant::now();
        let mut phase = Phase::Running;
        assert_eq!(phase.ask(Duration::from_secs(9), now), Act::Signal(libc::SIGTERM));
        assert_eq!(phase.step(false, now), Act::Halt);
        assert_eq!(phase.ask(Duration::MAX, now), Act::Nothing);
    }
}
