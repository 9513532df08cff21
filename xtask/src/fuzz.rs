//! `cargo xtask fuzz`: what smolvm reads from others, tried with what nobody would write.
//!
//! ```text
//!   deps (g++) ──► fuzz/, instrumented by the pinned compiler ──► replay: committed corpus, past failures
//!                                                                     │ anything that fails ends it here
//!                                                                     ▼
//!        table, and how to see a failure again ◄── every target for --seconds, as many at a time as there are processors
//! ```
//!
//! Invariants: `fuzz/corpus` is written only when asked to (`--minimize`); new inputs and failures stay beneath the target
//! directory; every target is bounded in time, in memory and in the length of its inputs.

mod engine;
mod program;
mod stats;

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use self::engine::Engine;
use self::program::Target;
use self::stats::Outcome;
use crate::deps::{self, Purpose};
use crate::sh::step;
use crate::workspace::Workspace;

/// What the command line asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    seconds: u32,
    after: After,
    targets: Vec<String>,
}

/// What becomes of the inputs that were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// They stay beneath the target directory.
    Keep,
    /// The committed corpus is made anew from them and itself, as small as it can be.
    Minimize,
}

impl Options {
    /// Reads `[--seconds N] [--minimize] [TARGET…]`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { seconds: 60, after: After::Keep, targets: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--seconds" => match words.next().and_then(|number| number.parse().ok()) {
                    Some(seconds) => options.seconds = seconds,
                    None => bail!("--seconds takes a number"),
                },
                "--minimize" => options.after = After::Minimize,
                flag if flag.starts_with('-') => bail!("fuzz takes --seconds N, --minimize and names of targets, not {flag}"),
                target => options.targets.push(target.to_owned()),
            }
        }
        Ok(options)
    }
}

/// The task.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    deps::run(Purpose::Fuzz)?;
    step("building the fuzz targets, instrumented");
    let program = program::build(workspace)?;
    let targets = program::targets(&program, &options.targets)?;
    let engine = Engine::new(workspace, program);
    step("replaying the committed corpus and past failures");
    let replayed = each(&targets, |target| engine.replay(target));
    report(&targets, &replayed, &engine)?;
    if options.seconds > 0 {
        step(&format!("{} targets, {} s each, {} at a time", targets.len(), options.seconds, at_once()));
        let outcomes = each(&targets, |target| engine.fuzz(target, options.seconds));
        print!("{}", stats::table(&targets, &outcomes));
        report(&targets, &outcomes, &engine)?;
    }
    if options.after == After::Minimize {
        step("minimizing the committed corpus");
        for target in &targets {
            engine.minimize(target)?;
        }
    }
    Ok(())
}

/// Names what failed and how to see it again.
fn report(targets: &[Target], outcomes: &[Result<Outcome>], engine: &Engine) -> Result<()> {
    let mut failed = Vec::new();
    for (target, outcome) in targets.iter().zip(outcomes) {
        let failure = match outcome {
            Ok(Outcome { failure: None, .. }) => continue,
            Ok(Outcome { failure: Some(failure), .. }) => failure.clone(),
            Err(error) => format!("{error:#}"),
        };
        eprintln!("\n{}: {failure}\n  again: {}", target.name, engine.again(target));
        failed.push(target.name.as_str());
    }
    if failed.is_empty() { Ok(()) } else { bail!("{} of {} targets failed: {}", failed.len(), targets.len(), failed.join(", ")) }
}

fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does `work` for every target, several at a time; the results are in the targets' order.
fn each(targets: &[Target], work: impl Fn(&Target) -> Result<Outcome> + Sync) -> Vec<Result<Outcome>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Outcome>>>> = targets.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..at_once() {
            scope.spawn(|| {
                while let Some((target, place)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    targets.get(index).zip(results.get(index))
                } {
                    let result = work(target);
                    if let Ok(mut place) = place.lock() {
                        *place = Some(result);
                    }
                }
            });
        }
    });
    let missing = || Err(anyhow::anyhow!("it was not run"));
    results.into_iter().map(|place| place.into_inner().ok().flatten().unwrap_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_options() {
        let options = Options::parse(&["--seconds", "7", "qmp", "nft"]).unwrap();
        assert_eq!((options.seconds, options.after, options.targets.len()), (7, After::Keep, 2));
        assert_eq!(Options::parse(&[]).unwrap().seconds, 60);
        for bad in [&["--seconds"][..], &["--seconds", "x"], &["--minimise"]] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn results_keep_the_order_of_the_targets() {
        let targets: Vec<Target> = (0..20).map(|n| Target { name: n.to_string(), longest: n }).collect();
        let results = each(&targets, |target| Ok(Outcome { runs: target.longest as u64, ..Outcome::default() }));
        assert!(results.iter().zip(0..).all(|(result, n)| result.as_ref().unwrap().runs == n));
    }
}
