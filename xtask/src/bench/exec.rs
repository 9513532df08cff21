//! One command in a running guest, against what the guest itself needs to start it.

use anyhow::{Context, Result};

use super::bed::Bed;
use super::figures::{Figure, ms};

const ID: &str = "bench-exec";

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    bed.run(&["create", "--name", ID, "--image", "minimal", "--start", "--quiet"])?;
    bed.feed(&["exec", "-i", ID, "--", "sh", "-c", "cat > /root/spawn && chmod 700 /root/spawn"], &bed.spawn)?;
    // Both once uncounted: the guest reads its disk, and the translator meets the code.
    inside(bed)?;
    outside(bed)?;
    let (mut ours, mut guests) = (Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        guests.push(inside(bed)?);
        ours.push(outside(bed)?);
    }
    bed.run(&["delete", ID])?;
    Ok(vec![
        Figure::of("exec.guest", "fork, exec and wait of `/bin/true` inside the guest, the mean of ten", "ms", &guests),
        Figure::of("exec.smolvm", "`smolvm exec` of `/bin/true`, from start to exit", "ms", &ours),
        Figure::ratio("exec.ratio", "smolvm against the guest's own spawn", &ours, &guests).at_most(1.5),
    ])
}

fn outside(bed: &Bed) -> Result<f64> {
    bed.time(&["exec", ID, "--", "/bin/true"]).map(|(took, _)| ms(took))
}

fn inside(bed: &Bed) -> Result<f64> {
    let text = bed.run(&["exec", ID, "--", "/root/spawn"])?;
    let nanos: u32 = text.trim().parse().with_context(|| format!("the spawn loop said {text:?}"))?;
    Ok(f64::from(nanos) / 1e6)
}
