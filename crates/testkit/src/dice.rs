//! Draws that a number repeats: tests that try what nobody thought of, and can try it again.
//!
//! ```text
//!   seed (SMOLVM_TEST_SEED, or drawn and printed) ──► Dice::of(seed, round) ──► the same draws each time
//! ```

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A stream of draws; not for secrets.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The draws of one part of a test: each part repeats by itself, whatever the others drew.
    pub fn of(seed: u64, part: u64) -> Self {
        let mut dice = Self(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Neighbouring seeds begin alike; a few draws apart they have nothing in common.
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    /// The next number: a counter whose bits are stirred (the finaliser of `MurmurHash3`).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        z = (z ^ (z >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        z ^ (z >> 33)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a usize fits");
        usize::try_from(self.next() % end).expect("below a usize")
    }

    /// One of several.
    pub fn one_of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// A time up to `most`, by microseconds.
    pub fn time(&mut self, most: Duration) -> Duration {
        let most = usize::try_from(most.as_micros()).expect("a short time");
        Duration::from_micros(u64::try_from(self.below(most + 1)).expect("a short time"))
    }

    /// Puts things into an order of its own.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}

/// `SMOLVM_TEST_SEED`, or one that nobody has tried yet.
pub fn seed() -> u64 {
    number("SMOLVM_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) % 1_000_000_000)
}

/// What a variable says; anything but a number is a mistake of who set it.
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed, part| -> Vec<usize> {
            let mut dice = Dice::of(seed, part);
            (0..20).map(|_| dice.below(1000)).collect()
        };
        assert_eq!(draw(7, 1), draw(7, 1));
        assert_ne!(draw(7, 1), draw(7, 2));
        assert_ne!(draw(7, 1), draw(8, 1));
    }

    #[test]
    fn every_face_comes_up_and_nothing_is_lost_in_a_shuffle() {
        let mut dice = Dice::of(1, 0);
        let seen: std::collections::BTreeSet<usize> = (0..200).map(|_| dice.below(6)).collect();
        assert_eq!(seen.len(), 6);
        let mut things: Vec<usize> = (0..50).collect();
        dice.shuffle(&mut things);
        assert!(!things.is_sorted());
        things.sort_unstable();
        assert_eq!(things, (0..50).collect::<Vec<_>>());
        assert!(dice.time(Duration::from_millis(3)) <= Duration::from_millis(3));
    }
}
