//! Names for sandboxes that nobody named: readable, and unique for millions.
//!
//! `vm-` two words and five characters of base 32: 64 x 64 x 33,554,432 = 137 thousand million
//! names. Among a million sandboxes the next name meets one of them with a chance below 1 in 100,000,
//! and then the ledger refuses it and another is drawn.

use smolvm_model::name::{IdPrefix, SandboxId};

const FIRST: [&str; 64] = [
    "amber", "apt", "bold", "brave", "brisk", "bright", "calm", "clear", "clever", "cosy", "crisp", "deft", "eager", "early", "easy",
    "fair", "fast", "fine", "firm", "fond", "free", "fresh", "gentle", "glad", "gold", "grand", "green", "happy", "hardy", "ideal",
    "jolly", "keen", "kind", "large", "light", "lively", "lucky", "merry", "mild", "neat", "noble", "odd", "open", "plain", "polite",
    "prime", "proud", "quick", "quiet", "rapid", "rare", "red", "ripe", "round", "sharp", "silver", "smart", "snug", "solid", "sunny",
    "swift", "tidy", "warm", "wise",
];
const SECOND: [&str; 64] = [
    "acorn", "badger", "bear", "beetle", "birch", "bison", "brook", "cedar", "cliff", "clover", "cloud", "coral", "crane", "creek", "deer",
    "delta", "dove", "eagle", "elm", "fern", "finch", "fjord", "fox", "frog", "gecko", "glade", "grove", "hare", "hawk", "heron", "hill",
    "ibis", "iris", "jay", "kite", "lake", "lark", "lily", "lynx", "maple", "marsh", "mole", "moss", "newt", "oak", "orchid", "otter",
    "owl", "panda", "pine", "plum", "pond", "quail", "reed", "robin", "sage", "seal", "shore", "sparrow", "stone", "swan", "tern", "trout",
    "wren",
];
/// Without 0, 1, l and o: a name is read aloud and typed again.
const TAIL: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Makes a name out of random bytes of the caller.
pub(crate) fn from_random(bytes: [u8; 8]) -> Option<SandboxId> {
    let pick = |words: &'static [&str; 64], byte: u8| words[usize::from(byte % 64)];
    let tail: String = bytes[2..7].iter().map(|b| char::from(TAIL[usize::from(b % 32)])).collect();
    format!("{}{}-{}-{tail}", IdPrefix::AUTO, pick(&FIRST, bytes[0]), pick(&SECOND, bytes[1])).parse().ok()
}

/// The name of a sandbox that lives until it is parked.
pub(crate) fn for_template(bytes: [u8; 5]) -> Option<SandboxId> {
    let tail: String = bytes.iter().map(|b| char::from(TAIL[usize::from(b % 32)])).collect();
    format!("{}template-{tail}", IdPrefix::AUTO).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_draw_is_a_valid_name_with_the_prefix() {
        for byte in 0..=255 {
            let id = from_random([byte; 8]).unwrap();
            assert!(IdPrefix::default().matches(&id));
        }
        assert_eq!(TAIL.iter().collect::<BTreeSet<_>>().len(), 32);
        for words in [FIRST, SECOND] {
            assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), 64);
        }
    }
}
