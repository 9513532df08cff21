//! `run` from the pool: what is left when the sandbox is there already.

use anyhow::Result;

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::run::timed;

const POOL: [&str; 2] = ["--set", "pool.minimal=1"];

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let fill = [&POOL[..], &["pool", "fill", "--quiet"]].concat();
    let run = [&POOL[..], &["run", "minimal", "--"]].concat();
    let (mut first, mut exit) = (Vec::new(), Vec::new());
    // One more, uncounted, before them.
    for round in 0..=bed.runs {
        // Waits for whoever fills it behind the run before.
        bed.run(&fill)?;
        let (byte, end) = timed(bed, &run)?;
        if round > 0 {
            first.push(ms(byte));
            exit.push(ms(end));
        }
    }
    bed.run(&["pool", "fill", "--quiet"])?;
    Ok(vec![
        Figure::of("pool.first", "`run minimal -- /bin/echo hi` from the pool, from start to the first byte", "ms", &first).at_most(40.0),
        Figure::of("pool.exit", "… to its exit, the sandbox removed and proven absent", "ms", &exit),
    ])
}
