//! Holds a run against the rule: intent before effect, fact after it.

use super::{Act, Announcement, Commit, Effect, Point, Side};

/// A rule of announcing and recording that a run broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Where in the run.
    pub at: usize,
    /// Which effect.
    pub effect: Effect,
    /// What is missing.
    pub missing: Missing,
}

/// What is missing around an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No commit before it announces it.
    Intent,
    /// No commit after it writes it down.
    Record,
}

/// Holds a run that came to its end, as the points it passed, against the rule: intent before effect, fact after it.
///
/// The points are those of all processes of one verb, in the order in which they were passed.
pub fn breaches(run: &[Point]) -> Vec<Breach> {
    let commit_between = |from: usize, to: usize, names: fn(Commit) -> &'static [Effect], effect: Effect| {
        run[from..to].iter().any(|p| matches!((p.act, p.side), (Act::Commit(commit), Side::After) if names(commit).contains(&effect)))
    };
    let mut found = Vec::new();
    for (at, point) in run.iter().enumerate() {
        let Act::Effect(effect) = point.act else { continue };
        let (by_commit, by_entry) = (effect.announcement() == Announcement::ByCommit, effect.announcement() == Announcement::ByEntry);
        match point.side {
            Side::Before if by_commit && !commit_between(0, at, Commit::intends, effect) => {
                found.push(Breach { at, effect, missing: Missing::Intent });
            }
            // An effect that failed has no point after it: there is nothing to write down.
            Side::After if (by_commit || by_entry) && !commit_between(at, run.len(), Commit::records, effect) => {
                found.push(Breach { at, effect, missing: Missing::Record });
            }
            Side::Before | Side::After => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_intent_or_record_is_caught() {
        let points = |words: &[&str]| words.iter().map(|w| w.parse().unwrap()).collect::<Vec<Point>>();
        let whole = ["before:ledger/create", "after:ledger/create", "before:state-dir", "after:state-dir", "after:ledger/created"];
        assert_eq!(breaches(&points(&whole)), []);
        let at = |at, missing| Breach { at, effect: Effect::StateDir, missing };
        assert_eq!(breaches(&points(&whole[2..])), [at(0, Missing::Intent)]);
        assert_eq!(breaches(&points(&whole[..4])), [at(3, Missing::Record)]);
        assert_eq!(breaches(&points(&whole[..3])), [], "an effect that failed is not written down");
        // A commit that was only begun has announced nothing.
        assert_eq!(breaches(&points(&["before:ledger/create", "before:state-dir", "after:ledger/created"])), [at(1, Missing::Intent)]);
        // A removal needs no announcement of its own: the entry stands until it is recorded.
        assert_eq!(breaches(&points(&["after:remove-taps", "after:ledger/settled"])), []);
        assert_eq!(breaches(&points(&["after:remove-taps"])).len(), 1);
    }
}
