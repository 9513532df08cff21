//! One command in a running guest, against what the guest itself needs to start it.
//!
//! Twice: in the image that is there by default, whose `/bin/true` has libraries to load, as nearly every program has; and in `minimal`, whose
//! `/bin/true` is a static file that starts in a ninth of the time, so that what is beside the guest's own work weighs most. For that one
//! there is a floor.

use anyhow::{Result, bail};

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::floor::Floor;
use crate::sh::step;

const ID: &str = "bench-exec";

/// Makes the image that takes packages, while there is a network.
pub(super) fn prepare(bed: &Bed) -> Result<()> {
    step("preparing the image debian");
    bed.run(&["setup", "--image", "debian"]).map(drop)
}

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let mut figures = in_debian(bed)?;
    figures.extend(in_minimal(bed)?);
    Ok(figures)
}

fn in_debian(bed: &Bed) -> Result<Vec<Figure>> {
    begin(bed, "debian")?;
    let (mut ours, mut guests) = (Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        guests.push(inside(bed)?.0);
        ours.push(outside(bed)?);
    }
    bed.run(&["delete", ID])?;
    Ok(vec![
        Figure::of(
            "exec.debian.guest",
            "fork, exec and wait of `/bin/true` inside a guest of `debian`, the mean of ten in a row",
            "ms",
            &guests,
        ),
        Figure::of("exec.debian", "`smolvm exec` of `/bin/true` there, from start to exit", "ms", &ours),
        Figure::ratio("exec.debian.ratio", "smolvm against the guest's own spawn", &ours, &guests).at_most(1.5),
    ])
}

/// A guest with the spawn loop in it, which has been asked for everything once: it reads its disk, and the translator meets the code.
fn begin(bed: &Bed, image: &str) -> Result<()> {
    bed.run(&["create", "--name", ID, "--image", image, "--start", "--quiet"])?;
    bed.feed(&["exec", "-i", ID, "--", "sh", "-c", "cat > /root/spawn && chmod 700 /root/spawn"], &bed.spawn)?;
    inside(bed)?;
    outside(bed).map(drop)
}

fn in_minimal(bed: &Bed) -> Result<Vec<Figure>> {
    begin(bed, "minimal")?;
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
        Figure::of("exec.guest", "fork, exec and wait of `/bin/true` inside a guest of `minimal`, the mean of ten in a row", "ms", &guests),
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
