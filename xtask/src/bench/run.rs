//! `run` with a template, against QEMU alone with the same template; many at once; what an idle fork costs.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::fork::RawFork;
use super::picture::{self, Bar};

const ID: &str = "bench-fork";
const ECHO: [&str; 2] = ["/bin/echo", "hi"];
/// How many are started at the same moment.
const AT_ONCE: usize = 50;

/// What a guest does in its first seconds belongs to what it takes when it is idle.
const SETTLED: Duration = Duration::from_secs(3);

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let built = bed.json(&["template", "build", "minimal", "--json"])?;
    let key = built["template"]["key"].as_str().context("template build names no key")?.to_owned();
    bed.run(&["run", "minimal", "--keep", "--name", ID, "--quiet", "--", "true"])?;
    let from = bed.json(&["inspect", "--json", ID])?;
    ensure!(from["sandbox"]["started_from"] == "template", "not forked: {from}");
    let raw = RawFork::like(bed, ID, &key)?;
    let used = own_of(bed)?;
    bed.run(&["delete", ID])?;
    bed.run(&["create", "--image", "minimal", "--name", ID, "--start", "--quiet"])?;
    std::thread::sleep(SETTLED);
    let idle = own_of(bed)?;
    bed.run(&["delete", ID])?;
    // Once uncounted each.
    raw.time(&ECHO)?;
    once(bed)?;
    let (mut floor, mut floor_gone, mut first, mut exit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bed.runs {
        let took = raw.time(&ECHO)?;
        floor.push(ms(took.first));
        floor_gone.push(ms(took.gone));
        let (byte, end) = once(bed)?;
        first.push(ms(byte));
        exit.push(ms(end));
    }
    drop(raw);
    let tail = Figure::of("run.first", "", "ms", &first);
    let mut figures = vec![
        Figure::of("run.floor", "QEMU alone, the same template: from its start to the first byte of `echo hi`", "ms", &floor),
        Figure::of("run.first", "`run minimal -- /bin/echo hi`, from start to the first byte", "ms", &first),
        Figure::ratio("run.ratio", "… against QEMU alone", &first, &floor).at_most(1.5),
        Figure::of("run.tail", "… the slowest against the median", "x", &[tail.max / tail.p50]).at_most(2.0),
        Figure::of("run.floor.gone", "QEMU alone, until it was killed and reaped", "ms", &floor_gone),
        Figure::of("run.exit", "`run` to its exit, the sandbox removed and proven absent", "ms", &exit),
        Figure::ratio("run.exit.ratio", "… against QEMU alone to its first byte", &exit, &floor).at_most(2.0),
        Figure::of("run.idle", "memory of an idle fork and its monitor that nobody else has (`stats`)", "MiB", &[idle]).at_most(20.0),
        Figure::of("run.used", "… of one that has run a command", "MiB", &[used]),
    ];
    let picture = where_it_goes(bed, &Figure::of("", "", "", &floor))?;
    std::fs::write(&bed.picture, picture).with_context(|| bed.picture.display().to_string())?;
    figures.extend(at_once(bed)?);
    Ok(figures)
}

/// Draws where the time to the first byte goes: the steps that `inspect` tells of the start, and what is before and after.
fn where_it_goes(bed: &Bed, floor: &Figure) -> Result<String> {
    let mut runs: Vec<(f64, Vec<(String, f64)>)> = Vec::new();
    for _ in 0..bed.runs {
        let (first, _) = timed(bed, &["run", "minimal", "--keep", "--quiet", "--name", ID, "--"])?;
        let told = bed.json(&["inspect", "--json", ID])?;
        let steps = told["steps"].as_array().context("inspect tells no steps")?.iter().map(|step| {
            let us = step["us"].as_u64().and_then(|us| u32::try_from(us).ok()).context("a step without a time")?;
            Ok((step["step"].as_str().unwrap_or_default().to_owned(), f64::from(us) / 1000.0))
        });
        runs.push((ms(first), steps.collect::<Result<_>>()?));
        bed.run(&["delete", ID])?;
    }
    let names: Vec<String> = runs.first().context("no run")?.1.iter().map(|(name, _)| name.clone()).collect();
    let median = |values: Vec<f64>| Figure::of("", "", "", &values).p50;
    let mut steps: Vec<(String, f64)> = names
        .iter()
        .enumerate()
        .map(|(index, name)| (name.clone(), median(runs.iter().filter_map(|(_, steps)| steps.get(index)).map(|(_, ms)| *ms).collect())))
        .collect();
    let rest = median(runs.iter().map(|(first, steps)| first - steps.iter().map(|(_, ms)| ms).sum::<f64>()).collect());
    steps.push(("create and exec".to_owned(), rest));
    let bars = [
        Bar { name: "smolvm run minimal -- /bin/echo hi, to the first byte".to_owned(), steps },
        Bar {
            name: "QEMU alone, the same template and command".to_owned(),
            steps: vec![("hypervisor, guest and command".to_owned(), floor.p50)],
        },
    ];
    Ok(picture::draw(&format!("Where the milliseconds of a run go (medians of {})", bed.runs), &bars))
}

/// What the sandbox has to itself, in MiB.
fn own_of(bed: &Bed) -> Result<f64> {
    let stats = bed.json(&["stats", ID, "--json"])?;
    let own = stats["sandboxes"][0]["own_bytes"].as_u64().and_then(|bytes| u32::try_from(bytes >> 10).ok());
    Ok(f64::from(own.context("stats tells no memory")?) / 1024.0)
}

/// To the first byte, and to the end.
fn once(bed: &Bed) -> Result<(Duration, Duration)> {
    timed(bed, &["run", "minimal", "--"])
}

pub(super) fn timed(bed: &Bed, run: &[&str]) -> Result<(Duration, Duration)> {
    let begin = Instant::now();
    let mut child = bed.command(&bed.smolvm, &[run, &ECHO[..]].concat()).stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().context("no output")?;
    let mut byte = [0];
    output.read_exact(&mut byte).context("run wrote nothing")?;
    let first = begin.elapsed();
    let status = child.wait()?;
    ensure!(status.success() && byte == *b"h", "run: {status}");
    Ok((first, begin.elapsed()))
}

fn at_once(bed: &Bed) -> Result<Vec<Figure>> {
    let outcomes: Vec<Result<(Duration, Duration)>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| once(bed))).collect();
        running.into_iter().map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let failures = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    for failed in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).take(3) {
        eprintln!("    {failed:#}");
    }
    let took: Vec<f64> = outcomes.into_iter().filter_map(Result::ok).map(|(first, _)| ms(first)).collect();
    let all = Figure::of("run.many", format!("{AT_ONCE} `run`s at once, each to its first byte"), "ms", &took);
    let ratio = all.max / all.p50;
    Ok(vec![
        all,
        Figure::of("run.many.tail", "… the slowest against the median", "x", &[ratio]).at_most(3.0),
        Figure::of("run.many.failed", "… how many failed", "x", &[f64::from(u32::try_from(failures)?)]).at_most(0.0),
    ])
}
