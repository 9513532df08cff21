//! `cargo xtask bench`: the numbers of docs/promises.md, measured side by side in one run.
//!
//! ```text
//!   build (release) ─► setup ─► private network namespace ─► one module per measurement ─► bench/results/
//! ```
//!
//! Invariants: what is compared is measured in turn in the same loop; every figure has its number of
//! runs, fastest and slowest beside the median; whatever a measurement makes is gone after it.

mod bed;
mod cleanup;
mod copy;
mod cpio;
mod exec;
mod figures;
mod floor;
mod footprint;
mod fork;
mod image;
mod list;
mod machine;
mod picture;
mod pool;
mod raw;
mod reap;
mod results;
mod run;
mod start;

use anyhow::{Context, Result, bail};
use testkit::Netns;

use crate::build::{self, Profile};
use crate::deps::{self, Purpose};
use crate::sh::step;
use crate::workspace::Workspace;
use bed::Bed;
use figures::Figure;

/// Below ten a median says little.
const RUNS: usize = 10;

type Measure = fn(&Bed) -> Result<Vec<Figure>>;

const ALL: [(&str, Measure); 9] = [
    ("start", start::measure),
    ("run", run::measure),
    ("pool", pool::measure),
    ("copy", copy::measure),
    ("image", image::measure),
    ("list", list::measure),
    ("exec", exec::measure),
    ("cleanup", cleanup::measure),
    ("footprint", footprint::measure),
];

/// The task.
pub(crate) fn run(workspace: &Workspace, args: &[&str]) -> Result<()> {
    let wanted = Wanted::parse(args)?;
    deps::run(Purpose::Demo)?;
    let built = build::smolvm(workspace, Profile::Release)?;
    let seed = build::program(workspace, Profile::Release, "seed", &built.agent)?;
    let bed = Bed::prepare(workspace, &built, seed, wanted.runs)?;
    if wanted.has("image") {
        deps::run(Purpose::Test)?;
        image::prepare(&bed)?;
    }
    if wanted.has("exec") {
        exec::prepare(&bed)?;
    }
    let machine = machine::describe(&bed)?;
    let figures = if rustix::process::geteuid().is_root() {
        // Devices and rules are made where nobody else has any.
        Netns::new()?.enter(|| measure_all(&bed, &wanted))
    } else {
        measure_all(&bed, &wanted)
    };
    let cleared = bed.clear();
    // What failed first says more than what it left.
    let figures = figures?;
    cleared?;
    results::show(&figures);
    results::write(workspace, &machine, &wanted.names, &figures)
}

fn measure_all(bed: &Bed, wanted: &Wanted) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, measure) in ALL.iter().filter(|(name, _)| wanted.has(name)) {
        step(&format!("measuring {name}, {} runs", wanted.runs));
        figures.extend(measure(bed).with_context(|| format!("bench {name}"))?);
    }
    Ok(figures)
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    names: Vec<String>,
    runs: usize,
}

impl Wanted {
    /// Whether it is to be measured: named, or everything is.
    fn has(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    fn parse(args: &[&str]) -> Result<Self> {
        let mut wanted = Self { names: Vec::new(), runs: RUNS };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            match *word {
                "--runs" => {
                    let count = words.next().context("--runs takes a number")?;
                    wanted.runs =
                        count.parse().ok().filter(|n| (1..=1000).contains(n)).with_context(|| format!("not a number of runs: {count}"))?;
                }
                name if ALL.iter().any(|(known, _)| *known == name) => wanted.names.push(name.to_owned()),
                other => bail!("no such benchmark: {other}; there are {}", ALL.map(|(name, _)| name).join(", ")),
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_runs() {
        assert_eq!(Wanted::parse(&[]).unwrap(), Wanted { names: Vec::new(), runs: RUNS });
        assert_eq!(
            Wanted::parse(&["list", "--runs", "30", "exec"]).unwrap(),
            Wanted { names: vec!["list".into(), "exec".into()], runs: 30 }
        );
        for bad in [&["lists"][..], &["--runs"], &["--runs", "0"], &["--runs", "many"]] {
            assert!(Wanted::parse(bad).is_err(), "{bad:?}");
        }
    }
}
