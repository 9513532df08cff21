//! Which task the command line asks for.

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{bench, build, ci, demo, deps, fuzz, seed, test, tidy};

const HELP: &str = "\
cargo xtask <task>

  build [--debug]                    the static agent, and smolvm with the agent embedded
  deps --for build|demo|test|fuzz    installs the system packages that are missing
  test [--long] [FILTER]             installs, builds, prepares images, runs every test
  tidy [--fix]                       the rules of the house; --fix rewrites the ADR index
  fuzz [--seconds N] [TARGET...]     replays the corpus, then runs every fuzz target; --minimize makes the corpus anew
  ci                                 fmt, clippy, tidy, deny, test, fuzz: what .ci/run runs
  demo                               the main job from nothing to a clean host, visibly
  seed [--rows-only] N               N stale sandboxes in $SMOLVM_HOME, or only their records
  bench                              the numbers of docs/promises.md, into bench/results/
";

/// Runs the task named by `args`.
pub(crate) fn dispatch(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] | ["help" | "--help" | "-h", ..] => {
            print!("{HELP}");
            Ok(())
        }
        ["build"] => build::run(&Workspace::find()?, build::Profile::Release),
        ["build", "--debug"] => build::run(&Workspace::find()?, build::Profile::Debug),
        ["deps", "--for", purpose] => deps::run(purpose.parse()?),
        ["test", rest @ ..] => test::run(&Workspace::find()?, &test::Options::parse(rest)?),
        ["tidy"] => tidy::run(&Workspace::find()?, tidy::Index::Check),
        ["tidy", "--fix"] => tidy::run(&Workspace::find()?, tidy::Index::Rewrite),
        ["fuzz", rest @ ..] => fuzz::run(&Workspace::find()?, &fuzz::Options::parse(rest)?),
        ["ci"] => ci::run(&Workspace::find()?),
        ["demo"] => demo::run(&Workspace::find()?),
        ["seed", rest @ ..] => seed::run(&Workspace::find()?, rest),
        ["bench", rest @ ..] => bench::run(&Workspace::find()?, rest),
        other => bail!("no such task: {}\n\n{HELP}", other.join(" ")),
    }
}
