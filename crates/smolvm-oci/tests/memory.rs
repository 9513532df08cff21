//! What the files of an image take of memory while it is made. Alone in its program: see `support::many`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use support::many::{Image, MIB, file, make, most_resident, nothing_left};

/// 200 MiB were asked of the program as a whole; what is not images takes less than 16 of them.
const MOST: usize = 184 * MIB;
const FILES: usize = 600_000;

// The smaller ones first.
#[test]
fn many_files_take_less_than_was_promised_and_more_are_refused() {
    let packed = make(&Image::default().with(FILES / 4, file).packed()).unwrap();
    println!("{} files and the largest window: {} MiB", FILES / 4, packed / MIB);
    assert!(packed > 140 * MIB && packed < MOST, "{} MiB", packed / MIB);
    refused(&Image::default().with(FILES / 2, file).packed());
    // A layer of nothing that asks for the largest window, over files that leave no room for it.
    refused(&Image::default().with(FILES / 2, file).with(1, nothing_left).packed());
    let many = make(&Image::default().with(FILES, file)).unwrap();
    println!("{FILES} files: {} MiB", many / MIB);
    assert!(many > 64 * MIB && many < MOST, "{} MiB", many / MIB);
    refused(&Image::default().with_more(2 * FILES, file));
}

fn refused(image: &Image) {
    let why = make(image).unwrap_err();
    let most = most_resident();
    assert!(why.contains("more memory than they may"), "{why}");
    assert!(most < MOST, "{} MiB", most / MIB);
}
