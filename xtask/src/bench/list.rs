//! `list` with a hundred sandboxes on record.

use anyhow::{Result, ensure};

use super::bed::Bed;
use super::cleanup::{COUNT, seed};
use super::figures::{Figure, ms};

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    seed(bed)?;
    let listed = bed.json(&["list", "--json"])?;
    ensure!(listed["sandboxes"].as_array().is_some_and(|s| s.len() == COUNT), "not {COUNT} sandboxes: {listed}");
    bed.time(&["list", "--json"])?;
    let mut took = Vec::new();
    for _ in 0..bed.runs {
        took.push(ms(bed.time(&["list", "--json"])?.0));
    }
    bed.clear()?;
    Ok(vec![Figure::of("list", format!("`list --json` with {COUNT} stale sandboxes"), "ms", &took).at_most(10.0)])
}
