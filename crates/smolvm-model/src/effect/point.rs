//! The places at which a run can be watched, or ended.

use std::fmt;

use super::{Commit, Effect};

/// What is done at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// The host is changed.
    Effect(Effect),
    /// The ledger is changed.
    Commit(Commit),
}

/// On which side of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Nothing of it has happened.
    Before,
    /// All of it has.
    After,
}

/// A place in the code at which a process can be made to end, to fail, or to be told that it passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Of what.
    pub act: Act,
    /// Before or after it.
    pub side: Side,
}

impl Point {
    /// Every point there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let effects = Effect::ALL.iter().copied().map(Act::Effect);
        let commits = Commit::ALL.iter().copied().map(Act::Commit);
        effects.chain(commits).flat_map(|act| [Side::Before, Side::After].map(|side| Self { act, side }))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        match self.act {
            Act::Effect(effect) => write!(f, "{side}:{}", effect.as_str()),
            Act::Commit(commit) => write!(f, "{side}:ledger/{}", commit.as_str()),
        }
    }
}

/// The word names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a point")]
pub struct PointError;

impl std::str::FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        Self::all().find(|point| point.to_string() == text).ok_or(PointError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = Point::all().map(|p| p.to_string()).collect();
        assert_eq!(names.len(), 2 * (Effect::ALL.len() + Commit::ALL.len()));
        for point in Point::all() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert_eq!("before:lunch".parse::<Point>(), Err(PointError));
    }
}
