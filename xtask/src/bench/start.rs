//! From nothing to the first answer, against QEMU alone.

use anyhow::Result;

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::raw::RawBoot;

const ID: &str = "bench-start";

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    // One that is not counted: it fills the page cache and shows how the machine is made.
    create(bed, &[])?;
    let raw = RawBoot::like(bed, ID)?;
    bed.run(&["delete", ID])?;
    raw.time()?;

    let (mut alone, mut ours, mut starts, mut answers, mut cold) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        alone.push(ms(raw.time()?));
        let (start, answer) = create(bed, &[])?;
        starts.push(start);
        answers.push(answer);
        ours.push(start + answer);
        bed.run(&["delete", ID])?;
        let (start, answer) = create(bed, &["--cold"])?;
        cold.push(start + answer);
        bed.run(&["delete", ID])?;
    }
    let accelerator = if raw.is_tcg() { "tcg" } else { "kvm" };
    Ok(vec![
        Figure::of("start.raw", format!("QEMU alone ({accelerator}): same kernel and machine, to an init that says ready"), "ms", &alone),
        Figure::of("start.smolvm", "`create --start` of `minimal`, then the first `exec` has answered", "ms", &ours),
        Figure::of("start.create", "… of it `create --start`", "ms", &starts),
        Figure::of("start.exec", "… of it `exec` of `/bin/true`", "ms", &answers),
        Figure::ratio("start.ratio", "smolvm, from a template, against QEMU alone, which boots", &ours, &alone).at_most(1.3),
        Figure::of("start.cold", "the same with `--cold`: it boots, too", "ms", &cold),
        Figure::ratio("start.cold.ratio", "… against QEMU alone", &cold, &alone).at_most(1.3),
    ])
}

fn create(bed: &Bed, more: &[&str]) -> Result<(f64, f64)> {
    let words = [&["create", "--name", ID, "--image", "minimal", "--start", "--quiet"], more].concat();
    let (start, _) = bed.time(&words)?;
    let (answer, _) = bed.time(&["exec", ID, "--", "/bin/true"])?;
    Ok((ms(start), ms(answer)))
}
