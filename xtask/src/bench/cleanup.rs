//! `cleanup` of a hundred and of a thousand stale sandboxes, each with everything a sandbox has, beside a cleaner
//! that runs a process for each thing.
//!
//! ```text
//!   seed ─► all of it is there, by other programs' word ─► clean, timed ─► nothing of it is left
//! ```

use std::io::{Read, Seek, Write};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::figures::{Figure, ms};
use super::reap::reap;
use crate::sh::Cmd;

/// How many there are.
pub(super) const COUNT: usize = 100;
/// How many there are when there are many.
const MANY: usize = 1000;
/// Runs with many: each takes a minute to be prepared.
const MANY_RUNS: usize = 5;

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let (few, memory_few) = runs(bed, COUNT, bed.runs)?;
    let naive = naive_runs(bed, COUNT, bed.runs.min(MANY_RUNS))?;
    let (many, memory_many) = runs(bed, MANY, bed.runs.min(MANY_RUNS))?;
    // One after the other takes longer the more there are: `nft` reads all of them each time.
    let naive_many = naive_runs(bed, MANY, 1)?;
    let each = |took: &[f64], count: u32| took.iter().map(|ms| ms / f64::from(count)).collect::<Vec<f64>>();
    let (each_few, each_many, each_naive) = (each(&few, 100), each(&many, 1000), each(&naive, 100));
    let each_naive_many = each(&naive_many, 1000);
    let all = format!("`cleanup --force` of {COUNT} stale sandboxes with TAP, element, files, rows");
    Ok(vec![
        Figure::of("cleanup", all, "ms", &few).at_most(500.0),
        Figure::of("cleanup.1000", format!("… of {MANY}"), "ms", &many).at_most(1500.0),
        Figure::of("cleanup.each", format!("… a sandbox, of {COUNT}"), "ms", &each_few),
        Figure::of("cleanup.1000.each", format!("… a sandbox, of {MANY}"), "ms", &each_many),
        Figure::ratio("cleanup.growth", format!("a sandbox of {MANY} against one of {COUNT}"), &each_many, &each_few).at_most(1.0),
        Figure::of("cleanup.memory", format!("resident memory at its largest, of {COUNT}"), "MiB", &memory_few).at_most(64.0),
        Figure::of("cleanup.1000.memory", format!("… of {MANY}"), "MiB", &memory_many).at_most(64.0),
        Figure::of("cleanup.naive", format!("a process for each device, element and directory of {COUNT}, without records"), "ms", &naive),
        Figure::of("cleanup.naive.each", "… a sandbox", "ms", &each_naive),
        Figure::ratio("cleanup.naive.ratio", format!("that against `cleanup`, a sandbox of {COUNT}"), &each_naive, &each_few),
        Figure::of("cleanup.naive.1000.each", format!("… a sandbox, of {MANY}"), "ms", &each_naive_many),
        Figure::ratio("cleanup.naive.ratio.1000", format!("that against `cleanup`, a sandbox of {MANY}"), &each_naive_many, &each_many),
    ])
}

/// Time in milliseconds and memory in MiB of each run.
fn runs(bed: &Bed, count: usize, runs: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut took, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        seed_checked(bed, count)?;
        let (time, resident) = clean(bed)?;
        took.push(time);
        memory.push(resident);
        let after = Seen::look(bed)?;
        ensure!(after == Seen::default(), "left after cleanup: {after:?}");
    }
    Ok((took, memory))
}

/// Runs `cleanup --force`: how long it took, all output read, and the most memory that it or a tool of its had at once.
fn clean(bed: &Bed) -> Result<(f64, f64)> {
    let mut command = bed.command(&bed.smolvm, &["cleanup", "--force"]);
    let complaint = tempfile::tempfile().context("no temporary file")?;
    let begin = Instant::now();
    let said = tempfile::tempfile().context("no temporary file")?;
    let child = command.stdout(said).stderr(complaint.try_clone()?).spawn().context("cannot run smolvm")?;
    let reaped = reap(child)?;
    let took = ms(begin.elapsed());
    ensure!(reaped.status.success(), "cleanup: {}\n{}", reaped.status, text(complaint)?);
    Ok((took, reaped.peak_mib))
}

fn text(mut file: std::fs::File) -> Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// How long the naive cleaner takes. What it leaves, the records, is taken by `cleanup`.
fn naive_runs(bed: &Bed, count: usize, runs: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..runs {
        seed_checked(bed, count)?;
        let (table, elements) = elements()?;
        let mut command = bed.command(&bed.naive, &[&bed.home.to_string_lossy(), &table]);
        let begin = Instant::now();
        let mut child = command.stdin(Stdio::piped()).spawn().context("cannot run the naive cleaner")?;
        child.stdin.take().context("no stdin")?.write_all(elements.as_bytes())?;
        let status = child.wait()?;
        took.push(ms(begin.elapsed()));
        ensure!(status.success(), "the naive cleaner: {status}");
        let left = Seen::look(bed)?;
        ensure!(left == Seen { rows: count, stale: count, ..Seen::default() }, "left by the naive cleaner: {left:?}");
        bed.clear()?;
    }
    Ok(took)
}

/// The table of the sandboxes, and their elements as `nft` writes them, one a line.
fn elements() -> Result<(String, String)> {
    let ruleset = json(Cmd::new("nft").args(["-j", "list", "ruleset"]))?;
    let objects = ruleset["nftables"].as_array().context("no ruleset")?;
    let set = objects.iter().filter_map(|object| object.get("set")).find(|set| set["name"] == "sources").context("no set")?;
    let mut lines = String::new();
    for element in set["elem"].as_array().into_iter().flatten() {
        let words = element["elem"]["val"]["concat"].as_array().context("an element of another shape")?;
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        lines += &(words.join(" . ") + "\n");
    }
    Ok((set["table"].as_str().context("a set without a table")?.to_owned(), lines))
}

/// Makes the stale sandboxes, and sees that each has all that a sandbox has.
fn seed_checked(bed: &Bed, count: usize) -> Result<()> {
    seed(bed, count)?;
    let before = Seen::look(bed)?;
    ensure!(before == Seen::all(count), "the seed is not what it should be: {before:?}");
    Ok(())
}

/// Makes the stale sandboxes.
pub(super) fn seed(bed: &Bed, count: usize) -> Result<()> {
    seed_with(bed, &[&count.to_string()])
}

/// Makes only the rows and entries of stale sandboxes.
pub(super) fn seed_rows(bed: &Bed, count: usize) -> Result<()> {
    seed_with(bed, &["--rows-only", &count.to_string()])
}

fn seed_with(bed: &Bed, words: &[&str]) -> Result<()> {
    let output = bed.command(&bed.seed, words).output().context("cannot run seed")?;
    ensure!(output.status.success(), "seed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    Ok(())
}

/// What of the sandboxes is on the host, by other programs' word.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    taps: usize,
    elements: usize,
    rows: usize,
    stale: usize,
    state_dirs: usize,
    run_dirs: usize,
}

impl Seen {
    fn all(count: usize) -> Self {
        Self { taps: count, elements: count, rows: count, stale: count, state_dirs: count, run_dirs: count }
    }

    fn look(bed: &Bed) -> Result<Self> {
        let links = json(Cmd::new("ip").args(["-j", "link"]))?;
        let marked = |link: &&Value| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("smolvm:"));
        let ruleset = json(Cmd::new("nft").args(["-j", "list", "ruleset"]))?;
        let sets = ruleset["nftables"].as_array().into_iter().flatten().filter_map(|object| object.get("set"));
        let elements = sets.flat_map(|set| set["elem"].as_array().into_iter().flatten());
        let owned =
            |element: &&Value| element["elem"]["comment"].as_str().is_some_and(|c| c.starts_with("smolvm:") && c.matches(':').count() == 2);
        let listed = bed.json(&["list", "--json"])?;
        let rows = listed["sandboxes"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            taps: links.as_array().into_iter().flatten().filter(marked).count(),
            elements: elements.filter(owned).count(),
            rows: rows.len(),
            stale: rows.iter().filter(|row| row["stale"] == true).count(),
            state_dirs: directories(bed, "state/sandboxes"),
            run_dirs: directories(bed, "run"),
        })
    }
}

fn directories(bed: &Bed, beneath: &str) -> usize {
    std::fs::read_dir(bed.home.join(beneath)).map_or(0, |entries| entries.flatten().filter(|e| e.path().is_dir()).count())
}

fn json(cmd: Cmd) -> Result<Value> {
    let shown = cmd.to_string();
    serde_json::from_str(&cmd.stdout()?).with_context(|| format!("{shown}: not JSON"))
}
