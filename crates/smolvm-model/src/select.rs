//! Which sandboxes `cleanup` is about, and why each.

use crate::name::{IdPrefix, SandboxId};
use crate::state::{State, Verdict};

/// What the user asked `cleanup` to consider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every sandbox.
    All,
    /// Automatically named, stale and interrupted ones.
    Prefix(IdPrefix),
}

/// One sandbox as `cleanup` sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: SandboxId,
    /// Its recorded state.
    pub state: State,
    /// Whether the record holds.
    pub verdict: Verdict,
    /// Whether its time to live has passed.
    pub expiry: Expiry,
}

/// Whether a sandbox's time to live has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It has none, or it has not passed.
    Alive,
    /// It has passed.
    Expired,
}

/// Why a sandbox is a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its recorded process is gone.
    Stale,
    /// Its creation or deletion was interrupted.
    Interrupted,
    /// Its time to live has passed.
    Expired,
    /// Its id has the prefix.
    Prefix,
    /// Everything was asked for.
    All,
}

impl Why {
    /// One word, for tables and plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
            Self::Prefix => "prefix",
            Self::All => "all",
        }
    }
}

/// Whether a sandbox is a target, left alone, or cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Remove it.
    Target(Why),
    /// Leave it.
    Keep,
    /// It would be a target, but what it holds cannot be judged: report, do nothing.
    Unknown {
        /// What could not be read.
        evidence: String,
    },
}

/// Judges one sandbox.
pub fn select(scope: &Scope, candidate: &Candidate) -> Selection {
    let why = match (scope, &candidate.verdict) {
        (_, Verdict::Unknown { evidence }) => {
            let touched = match scope {
                Scope::All => true,
                Scope::Prefix(prefix) => prefix.matches(&candidate.id) || candidate.state.claims_process(),
            };
            return if touched { Selection::Unknown { evidence: evidence.clone() } } else { Selection::Keep };
        }
        (_, Verdict::Stale) => Some(Why::Stale),
        (_, Verdict::Interrupted) => Some(Why::Interrupted),
        (Scope::All, Verdict::Current) => Some(Why::All),
        (Scope::Prefix(prefix), Verdict::Current) if prefix.matches(&candidate.id) => Some(Why::Prefix),
        (Scope::Prefix(_), Verdict::Current) => match candidate.expiry {
            Expiry::Expired => Some(Why::Expired),
            Expiry::Alive => None,
        },
    };
    why.map_or(Selection::Keep, Selection::Target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, state: State, verdict: Verdict) -> Candidate {
        Candidate { id: id.parse().unwrap(), state, verdict, expiry: Expiry::Alive }
    }

    #[test]
    fn the_contract_table() {
        let prefix = Scope::Prefix(IdPrefix::default());
        let table = [
            ("vm-a", State::Running, Verdict::Current, Selection::Target(Why::Prefix)),
            ("named", State::Running, Verdict::Current, Selection::Keep),
            ("named", State::Running, Verdict::Stale, Selection::Target(Why::Stale)),
            ("named", State::Creating, Verdict::Interrupted, Selection::Target(Why::Interrupted)),
            ("named", State::Creating, Verdict::Current, Selection::Keep),
            ("named", State::Deleting, Verdict::Interrupted, Selection::Target(Why::Interrupted)),
            ("named", State::Failed, Verdict::Current, Selection::Keep),
            ("vm-f", State::Failed, Verdict::Current, Selection::Target(Why::Prefix)),
            ("named", State::Stopped, Verdict::Current, Selection::Keep),
        ];
        for (id, state, verdict, want) in table {
            let c = candidate(id, state, verdict);
            assert_eq!(select(&prefix, &c), want, "{c:?}");
            assert!(matches!(select(&Scope::All, &c), Selection::Target(_)), "{c:?}");
        }
    }

    #[test]
    fn unknown_is_never_a_target() {
        for scope in [Scope::All, Scope::Prefix(IdPrefix::default())] {
            for state in State::ALL {
                let c = candidate("vm-a", state, Verdict::Unknown { evidence: "x".to_owned() });
                assert!(matches!(select(&scope, &c), Selection::Unknown { .. }));
            }
        }
    }

    #[test]
    fn a_passed_time_to_live_makes_a_target() {
        let mut c = candidate("named", State::Running, Verdict::Current);
        c.expiry = Expiry::Expired;
        assert_eq!(select(&Scope::Prefix(IdPrefix::default()), &c), Selection::Target(Why::Expired));
    }
}
