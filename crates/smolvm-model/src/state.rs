//! The lifecycle of a sandbox as three pure functions.
//!
//! ```text
//!  Creating ─► Created ─► Starting ─► Running ◄─► Paused     a failed create goes straight to Deleting
//!                            ▲           │  ▲        │         Pooled: paused, and nobody's yet; taken, it is Paused
//!                            │           │  └ Pooled │
//!                            │           ▼          ▼
//!                         Stopped ◄── Stopping ◄────┘        Starting|Stopping ─failure─► Failed
//!  Created|Stopped|Failed ─delete─► Deleting ─► no row, only once the ledger is empty
//! ```
//!
//! [`admit`] says whether a request may go on, [`next`] what an event makes of a state, [`judge`]
//! whether what is recorded is still true. A transitional state exists exactly where a crash can
//! leave host resources half made.

use std::fmt;
use std::str::FromStr;

/// Where a sandbox is in its life, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Being made.
    Creating,
    /// Made, never started.
    Created,
    /// Being started.
    Starting,
    /// Its guest answers.
    Running,
    /// Its guest is frozen.
    Paused,
    /// Its guest is frozen, and waits for somebody to take it.
    Pooled,
    /// Being stopped.
    Stopping,
    /// Not running; its disk is kept.
    Stopped,
    /// A start or stop failed; the ledger says what is left.
    Failed,
    /// Being removed.
    Deleting,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Pooled,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Deleting,
    ];

    /// The word that users and the database see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Pooled => "pooled",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }

    /// Whether a sandbox in this state is recorded as having a hypervisor.
    pub fn claims_process(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused | Self::Pooled | Self::Stopping => true,
            Self::Creating | Self::Created | Self::Stopped | Self::Failed | Self::Deleting => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a state")]
pub struct StateError;

impl FromStr for State {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(StateError)
    }
}

/// What a user asks of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// Boot it.
    Start,
    /// Shut it down, keep its disk.
    Stop,
    /// Halt it where it stands.
    Pause,
    /// Let it go on.
    Resume,
    /// Run a command in it.
    Exec,
    /// Remove it.
    Delete,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Go,
    /// Take back what a dead process left, then go on.
    ReclaimThenGo,
    /// It is so already; nothing to do.
    AlreadySo,
    /// Not in this state.
    Refused(Refusal),
}

/// Why a request does not fit the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It must be started first.
    NotRunning,
    /// Its hypervisor is gone: `start` boots it again, `cleanup` removes it.
    Stale,
    /// Its creation was interrupted: it can only be deleted.
    HalfCreated,
    /// Its deletion was interrupted: it can only be deleted to the end.
    HalfDeleted,
    /// It is frozen.
    Paused,
    /// It waits in the pool and is nobody's yet.
    Pooled,
    /// Another operation has not ended yet.
    InTransition,
}

/// What the host shows of a sandbox's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// The recorded hypervisor runs.
    Alive,
    /// It does not, by full identity; or none was ever recorded and nobody is at it.
    Gone,
    /// A command or a monitor is at work on it right now.
    AtWork,
    /// The evidence cannot be read.
    Unknown {
        /// What could not be read.
        evidence: String,
    },
}

/// Whether the record still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Current,
    /// It claims a process that is proven gone.
    Stale,
    /// A creation or deletion that nobody is finishing.
    Interrupted,
    /// Nobody can tell.
    Unknown {
        /// What could not be read.
        evidence: String,
    },
}

/// Holds the record against the host.
pub fn judge(state: State, observed: &Observed) -> Verdict {
    let unknown = |evidence: &String| Verdict::Unknown { evidence: evidence.clone() };
    match state {
        State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping => match observed {
            Observed::Alive | Observed::AtWork => Verdict::Current,
            Observed::Gone => Verdict::Stale,
            Observed::Unknown { evidence } => unknown(evidence),
        },
        State::Creating | State::Deleting => match observed {
            Observed::AtWork => Verdict::Current,
            Observed::Alive | Observed::Gone => Verdict::Interrupted,
            Observed::Unknown { evidence } => unknown(evidence),
        },
        State::Created | State::Stopped | State::Failed => match observed {
            Observed::Alive | Observed::Gone | Observed::AtWork => Verdict::Current,
            Observed::Unknown { evidence } => unknown(evidence),
        },
    }
}

/// Whether a request fits a state; `freshness` is the verdict of the same look.
///
/// Called under the sandbox's lock, so a transitional state means that somebody died in it.
pub fn admit(state: State, freshness: Staleness, request: Request) -> Admission {
    use Admission::{AlreadySo, Go, ReclaimThenGo, Refused};
    match request {
        Request::Delete => Go,
        Request::Start => match (state, freshness) {
            (State::Created | State::Stopped, _) => Go,
            (State::Failed, _) | (State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping, Staleness::Stale) => {
                ReclaimThenGo
            }
            (State::Running, Staleness::Fresh) => AlreadySo,
            (State::Paused, Staleness::Fresh) => Refused(Refusal::Paused),
            (State::Pooled, Staleness::Fresh) => Refused(Refusal::Pooled),
            (State::Starting | State::Stopping, Staleness::Fresh) => Refused(Refusal::InTransition),
            (State::Creating, _) => Refused(Refusal::HalfCreated),
            (State::Deleting, _) => Refused(Refusal::HalfDeleted),
        },
        Request::Stop => match (state, freshness) {
            (State::Created | State::Stopped, _) => AlreadySo,
            (State::Failed, _) | (State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping, Staleness::Stale) => {
                ReclaimThenGo
            }
            (State::Running | State::Paused | State::Pooled | State::Starting | State::Stopping, Staleness::Fresh) => Go,
            (State::Creating, _) => Refused(Refusal::HalfCreated),
            (State::Deleting, _) => Refused(Refusal::HalfDeleted),
        },
        // Also when it is so already: the record may be older than what its monitor did.
        Request::Pause | Request::Resume => match (state, freshness) {
            (State::Running | State::Paused, Staleness::Fresh) => Go,
            (State::Pooled, Staleness::Fresh) => Refused(Refusal::Pooled),
            (State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping, Staleness::Stale) => {
                Refused(Refusal::Stale)
            }
            (State::Starting | State::Stopping, Staleness::Fresh) => Refused(Refusal::InTransition),
            (State::Created | State::Stopped | State::Failed, _) => Refused(Refusal::NotRunning),
            (State::Creating, _) => Refused(Refusal::HalfCreated),
            (State::Deleting, _) => Refused(Refusal::HalfDeleted),
        },
        Request::Exec => match (state, freshness) {
            (State::Running, Staleness::Fresh) => Go,
            (State::Paused, Staleness::Fresh) => Refused(Refusal::Paused),
            (State::Pooled, Staleness::Fresh) => Refused(Refusal::Pooled),
            (State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping, Staleness::Stale) => {
                Refused(Refusal::Stale)
            }
            (State::Starting | State::Stopping, Staleness::Fresh) => Refused(Refusal::InTransition),
            (State::Created | State::Stopped | State::Failed, _) => Refused(Refusal::NotRunning),
            (State::Creating, _) => Refused(Refusal::HalfCreated),
            (State::Deleting, _) => Refused(Refusal::HalfDeleted),
        },
    }
}

/// Whether a record that claims a process is known to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// Not known to be.
    Fresh,
    /// Known to be.
    Stale,
}

/// What happened to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Everything `create` makes is there.
    Made,
    /// A start began.
    StartBegun,
    /// The agent answered.
    AgentReady,
    /// A stop began.
    StopBegun,
    /// The guest was frozen.
    Frozen,
    /// The guest was thawed.
    Thawed,
    /// A frozen guest was put where others can take it.
    Pooled,
    /// Somebody took it.
    Taken,
    /// Host resources of a run were released after a stop, an orderly power-off or a reclaim.
    RunReleased,
    /// A start or a stop failed.
    OperationFailed,
    /// A deletion began, or a creation is rolled back.
    DeleteBegun,
}

/// The state after an event; `None` where the event cannot happen.
pub fn next(state: State, event: Event) -> Option<State> {
    match event {
        Event::Made => (state == State::Creating).then_some(State::Created),
        Event::StartBegun => match state {
            State::Created | State::Stopped => Some(State::Starting),
            State::Creating
            | State::Starting
            | State::Running
            | State::Paused
            | State::Pooled
            | State::Stopping
            | State::Failed
            | State::Deleting => None,
        },
        Event::AgentReady => (state == State::Starting).then_some(State::Running),
        Event::StopBegun => match state {
            State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping => Some(State::Stopping),
            State::Creating | State::Created | State::Stopped | State::Failed | State::Deleting => None,
        },
        Event::Frozen => (state == State::Running).then_some(State::Paused),
        Event::Thawed => (state == State::Paused).then_some(State::Running),
        Event::Pooled => (state == State::Running).then_some(State::Pooled),
        Event::Taken => (state == State::Pooled).then_some(State::Paused),
        Event::RunReleased => match state {
            State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping | State::Failed => Some(State::Stopped),
            State::Creating | State::Created | State::Stopped | State::Deleting => None,
        },
        Event::OperationFailed => match state {
            State::Starting | State::Stopping => Some(State::Failed),
            State::Creating
            | State::Created
            | State::Running
            | State::Paused
            | State::Pooled
            | State::Stopped
            | State::Failed
            | State::Deleting => None,
        },
        Event::DeleteBegun => Some(State::Deleting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENTS: [Event; 11] = [
        Event::Made,
        Event::StartBegun,
        Event::AgentReady,
        Event::StopBegun,
        Event::Frozen,
        Event::Thawed,
        Event::Pooled,
        Event::Taken,
        Event::RunReleased,
        Event::OperationFailed,
        Event::DeleteBegun,
    ];

    #[test]
    fn words_round_trip() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>(), Ok(state));
        }
        assert!("Running".parse::<State>().is_err());
    }

    #[test]
    fn every_admitted_start_and_stop_has_a_transition() {
        for state in State::ALL {
            for stale in [Staleness::Fresh, Staleness::Stale] {
                for (request, event) in [(Request::Start, Event::StartBegun), (Request::Stop, Event::StopBegun)] {
                    match admit(state, stale, request) {
                        Admission::Go => assert!(next(state, event).is_some(), "{state} {request:?}"),
                        Admission::ReclaimThenGo => {
                            let reclaimed = next(state, Event::RunReleased);
                            assert_eq!(reclaimed, Some(State::Stopped), "{state} {request:?}");
                        }
                        Admission::AlreadySo | Admission::Refused(_) => {}
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_that_may_run_is_called_stale() {
        for state in State::ALL {
            assert_ne!(judge(state, &Observed::Alive), Verdict::Stale);
            assert_ne!(judge(state, &Observed::AtWork), Verdict::Stale);
            assert!(matches!(judge(state, &Observed::Unknown { evidence: String::new() }), Verdict::Unknown { .. }));
            assert_eq!(judge(state, &Observed::Gone) == Verdict::Stale, state.claims_process());
        }
    }

    proptest! {
        #[test]
        fn no_walk_leaves_deleting_or_reaches_running_without_starting(walk in prop::collection::vec(0..EVENTS.len(), 0..40)) {
            let mut state = State::Creating;
            for index in walk {
                if let Some(after) = next(state, EVENTS[index]) {
                    if after == State::Running {
                        prop_assert!(matches!(state, State::Starting | State::Paused));
                    }
                    if state == State::Deleting {
                        prop_assert_eq!(after, State::Deleting);
                    }
                    state = after;
                }
            }
        }
    }
}
