//! What names take of memory while a layer hides them. Alone in its program: see `support::many`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use support::many::{Image, MIB, make, name, opaque};

/// Of 250 bytes each, which is what they take, and little else.
const NAMES: usize = 120_000;

#[test]
fn names_that_go_at_once_are_not_held_twice_on_their_way() {
    let hidden = make(&Image::default().with(NAMES, name).with(1, opaque)).unwrap();
    println!("{NAMES} names of two files, and none: {} MiB", hidden / MIB);
    assert!(hidden > NAMES * 300 && hidden < NAMES * 300 + 24 * MIB, "{} MiB", hidden / MIB);
}
