//! `list` with a hundred sandboxes on record, and with ten thousand.

use anyhow::{Result, ensure};

use super::bed::Bed;
use super::cleanup::{COUNT, seed, seed_rows};
use super::figures::{Figure, ms};

/// How many rows there are when there are many; only rows, for `list` looks at nothing else of a process that is gone.
const MANY: usize = 10_000;

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    seed(bed, COUNT)?;
    let few = runs(bed, &["list", "--json"], COUNT)?;
    bed.clear()?;
    seed_rows(bed, MANY)?;
    let many = runs(bed, &["list", "--json"], MANY)?;
    let table = runs(bed, &["list"], MANY)?;
    bed.clear()?;
    Ok(vec![
        Figure::of("list", format!("`list --json` with {COUNT} stale sandboxes"), "ms", &few).at_most(10.0),
        Figure::of("list.10000", format!("… with {MANY} rows of stale sandboxes"), "ms", &many).at_most(50.0),
        Figure::of("list.10000.table", "… `list`, the table for people", "ms", &table),
    ])
}

fn runs(bed: &Bed, words: &[&str], count: usize) -> Result<Vec<f64>> {
    let listed = bed.json(&["list", "--json"])?;
    ensure!(listed["sandboxes"].as_array().is_some_and(|s| s.len() == count), "not {count} sandboxes");
    bed.time(words)?;
    (0..bed.runs).map(|_| Ok(ms(bed.time(words)?.0))).collect()
}
