//! What libFuzzer tells of a run, as a table.

use std::fmt::Write;

use super::program::Target;

/// How a run went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Inputs that were run.
    pub(super) runs: u64,
    /// Inputs that are worth keeping, known ones included.
    pub(super) corpus: u64,
    /// Edges reached by what was known before.
    pub(super) known: u64,
    /// Edges reached in the end.
    pub(super) reached: u64,
    /// What went wrong, in a few lines.
    pub(super) failure: Option<String>,
}

/// Lines of a failure that are shown.
const SHOWN: usize = 6;

/// Reads what a run wrote to standard error.
pub(super) fn read(told: &str, success: bool) -> Outcome {
    let edges: Vec<u64> = told.lines().filter_map(|line| number_after(line, " cov: ")).collect();
    let known = told.lines().find(|line| line.contains("INITED")).and_then(|line| number_after(line, " cov: "));
    let corpus = told.lines().filter_map(|line| number_after(line, " corp: ")).next_back();
    let runs = told.lines().find_map(|line| number_after(line, "stat::number_of_executed_units:"));
    let failure = (!success).then(|| {
        let telling = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer") || line.contains("Test unit written");
        // A panic's message stands in the lines after the one that says where it was.
        let begin = told.lines().position(|line| telling(&line)).unwrap_or(0);
        let lines: Vec<&str> = told.lines().skip(begin).filter(|line| !line.trim_start().starts_with('#')).take(SHOWN).collect();
        lines.join("\n  ")
    });
    Outcome {
        runs: runs.unwrap_or(0),
        corpus: corpus.unwrap_or(0),
        known: known.unwrap_or(0),
        reached: edges.into_iter().max().unwrap_or(0),
        failure,
    }
}

/// The digits after `word`.
fn number_after(line: &str, word: &str) -> Option<u64> {
    let rest = line.split_once(word)?.1.trim_start();
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A line for each target.
pub(super) fn table(targets: &[Target], outcomes: &[anyhow::Result<Outcome>]) -> String {
    let mut text = format!("{:<16} {:>10} {:>7} {:>7} {:>6}  result\n", "target", "runs", "corpus", "edges", "new");
    for (target, outcome) in targets.iter().zip(outcomes) {
        // Writing into a String cannot fail.
        let _ = match outcome {
            Ok(Outcome { runs, corpus, known, reached, failure }) => {
                let result = if failure.is_some() { "FAILED" } else { "ok" };
                let new = reached.saturating_sub(*known);
                writeln!(text, "{:<16} {runs:>10} {corpus:>7} {reached:>7} {new:>6}  {result}", target.name)
            }
            Err(_) => writeln!(text, "{:<16} {:>10} {:>7} {:>7} {:>6}  NOT RUN", target.name, "", "", "", ""),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: &str = "INFO: Seed: 1\n#2\tINITED cov: 40 ft: 41 corp: 2/4b exec/s: 0 rss: 30Mb\n\
        #99\tNEW    cov: 57 ft: 80 corp: 3/9b lim: 4\n#1000\tDONE   cov: 57 ft: 80 corp: 12/99b lim: 4 exec/s: 500\n\
        stat::number_of_executed_units: 1000\n";

    #[test]
    fn a_run_is_read() {
        let outcome = read(TOLD, true);
        assert_eq!(outcome, Outcome { runs: 1000, corpus: 12, known: 40, reached: 57, failure: None });
        let targets = [Target { name: "qmp".to_owned(), longest: 1 }];
        let table = table(&targets, &[Ok(outcome)]);
        assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("qmp ") && line.ends_with("17  ok")), "{table}");
    }

    #[test]
    fn a_failure_says_where() {
        let told = format!(
            "{TOLD}\nthread '<unnamed>' panicked at src/x.rs:1:2:\nassertion failed\n==1== ERROR: libFuzzer: deadly signal\n    #0 0x1\n"
        );
        let failure = read(&told, false).failure.unwrap();
        assert!(failure.starts_with("thread") && failure.contains("assertion failed") && !failure.contains("#0"), "{failure}");
        assert!(read("", false).failure.is_some());
    }
}
