//! One command in a running guest, against what the guest itself needs to start it.

use anyhow::{Result, bail};

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::floor::Floor;

const ID: &str = "bench-exec";

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    bed.run(&["create", "--name", ID, "--image", "minimal", "--start", "--quiet"])?;
    bed.feed(&["exec", "-i", ID, "--", "sh", "-c", "cat > /root/spawn && chmod 700 /root/spawn"], &bed.spawn)?;
    // Both once uncounted: the guest reads its disk, and the translator meets the code.
    inside(bed)?;
    outside(bed)?;
    let floor = Floor::like(bed, ID)?;
    let (mut ours, mut guests, mut idle, mut least) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        let (tight, paused) = inside(bed)?;
        guests.push(tight);
        idle.push(paused);
        // One after the other, so that neither guest is warmer than the other when it is asked.
        least.push(ms(floor.time()?));
        ours.push(outside(bed)?);
    }
    drop(floor);
    bed.run(&["delete", ID])?;
    Ok(vec![
        Figure::of("exec.guest", "fork, exec and wait of `/bin/true` inside the guest, the mean of ten in a row", "ms", &guests),
        Figure::of("exec.guest.idle", "… the mean of ten with a pause before each, as `exec` meets the guest", "ms", &idle),
        Figure::of("exec.smolvm", "`smolvm exec` of `/bin/true`, from start to exit", "ms", &ours),
        Figure::ratio("exec.ratio", "smolvm against the guest's own spawn", &ours, &guests).at_most(1.5),
        Figure::of(
            "exec.floor",
            "the same with nothing of smolvm's: a byte to QEMU's socket, an init that spawns it, a byte back",
            "ms",
            &least,
        ),
        Figure::ratio("exec.floor.ratio", "that floor against the guest's own spawn", &least, &guests),
        Figure::ratio("exec.ratio.floor", "smolvm against the floor", &ours, &least).at_most(1.5),
        Figure::ratio("exec.ratio.idle", "smolvm against the spawn of an idle guest", &ours, &idle),
    ])
}

fn outside(bed: &Bed) -> Result<f64> {
    bed.time(&["exec", ID, "--", "/bin/true"]).map(|(took, _)| ms(took))
}

/// In a tight loop, and with pauses.
fn inside(bed: &Bed) -> Result<(f64, f64)> {
    let text = bed.run(&["exec", ID, "--", "/root/spawn"])?;
    let number = |word: &str| word.parse::<u32>().ok().map(|nanos| f64::from(nanos) / 1e6);
    let numbers: Option<Vec<f64>> = text.split_whitespace().map(number).collect();
    match numbers.as_deref() {
        Some([tight, paused]) => Ok((*tight, *paused)),
        _ => bail!("the spawn loop said {text:?}"),
    }
}
