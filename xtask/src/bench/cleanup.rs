//! `cleanup` of a hundred stale sandboxes, each with everything a sandbox has.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::figures::{Figure, ms};
use crate::sh::Cmd;

/// How many there are.
pub(super) const COUNT: usize = 100;
const COUNT_TEXT: &str = "100";

pub(super) fn measure(bed: &Bed) -> Result<Vec<Figure>> {
    let mut took = Vec::new();
    for _ in 0..bed.runs {
        seed(bed)?;
        let before = Seen::look(bed)?;
        ensure!(before == Seen::all(), "the seed is not what it should be: {before:?}");
        let (time, _) = bed.time(&["cleanup", "--force"])?;
        took.push(ms(time));
        let after = Seen::look(bed)?;
        ensure!(after == Seen::default(), "left after cleanup: {after:?}");
    }
    Ok(vec![
        Figure::of("cleanup", format!("`cleanup --force` of {COUNT} stale sandboxes with TAP, element, files, rows"), "ms", &took)
            .at_most(500.0),
    ])
}

/// Makes the stale sandboxes.
pub(super) fn seed(bed: &Bed) -> Result<()> {
    let output = bed.command(&bed.seed, &[COUNT_TEXT]).output().context("cannot run seed")?;
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
    fn all() -> Self {
        Self { taps: COUNT, elements: COUNT, rows: COUNT, stale: COUNT, state_dirs: COUNT, run_dirs: COUNT }
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
