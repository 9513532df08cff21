//! Words that do not belong in the code.

use super::{Finding, Source, Tree};

/// The crates that may be asynchronous, once they exist.
const ASYNC_HOMES: &[&str] = &["crates/smolvm-api/"];
/// These files name the forbidden words.
const OWN: &str = "xtask/src/tidy/";

fn find<'a>(files: impl Iterator<Item = &'a Source>, bad: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    files
        .filter(|file| !file.path.starts_with(OWN))
        .flat_map(|file| file.code().filter_map(|(number, line)| Some(Finding::line(&file.path, number, bad(line)?))).collect::<Vec<_>>())
        .collect()
}

/// No async outside its home.
pub(super) fn no_async(tree: &Tree) -> Vec<Finding> {
    let files = tree.rust().filter(|file| !ASYNC_HOMES.iter().any(|home| file.path.starts_with(home)));
    find(files, |line| {
        ["async fn", "async move", "async {", ".await", "tokio::"]
            .iter()
            .find(|word| stands_alone(line, word))
            .map(|word| format!("`{word}` outside smolvm-api"))
    })
}

/// Whether `word` stands in `line` and does not go on into a longer name, such as `.await_greeting`.
fn stands_alone(line: &str, word: &str) -> bool {
    let goes_on = |rest: &str| !word.ends_with([':', '{']) && rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| !goes_on(&line[at + word.len()..]))
}

/// No error variant that says nothing.
pub(super) fn no_catch_all(tree: &Tree) -> Vec<Finding> {
    let files = tree.rust().filter(|file| file.path.contains("/src/"));
    find(files, |line| {
        let line = line.trim_start();
        let catch_all = line.starts_with("Other(")
            || line.starts_with("Custom(")
            || ["Unknown(String)", "Failed(String)", "Error(String)", "Message(String)", "Internal(String)"]
                .iter()
                .any(|v| line.starts_with(v));
        catch_all.then(|| "a catch-all variant: give the case a name and fields".to_owned())
    })
}

/// No test that does not run, no code that is not there.
pub(super) fn no_skips(tree: &Tree) -> Vec<Finding> {
    find(tree.rust(), |line| {
        ["#[ignore", "todo!(", "unimplemented!(", "dbg!("].iter().find(|word| line.contains(**word)).map(|word| format!("`{word}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn async_is_found_outside_its_home() {
        for bad in ["pub async fn f() {}", "x.await?;", "use tokio::net;"] {
            assert_eq!(no_async(&sample(&[("crates/smolvm/src/a.rs", bad)])).len(), 1, "{bad}");
        }
        assert!(
            no_async(&sample(&[
                ("crates/smolvm-api/src/a.rs", "async fn f() {}"),
                ("crates/a/src/b.rs", "// never async fn\nx.await_greeting();")
            ]))
            .is_empty()
        );
    }

    #[test]
    fn catch_all_variants_are_found() {
        for bad in ["    Other(String),", "    Custom(Box<dyn Error>),", "Unknown(String),"] {
            assert_eq!(no_catch_all(&sample(&[("crates/smolvm/src/a.rs", bad)])).len(), 1, "{bad}");
        }
        assert!(no_catch_all(&sample(&[("crates/smolvm/src/a.rs", "Unknown { kind: Kind },\nRefused(Mark),")])).is_empty());
    }

    #[test]
    fn skipped_tests_and_gaps_are_found() {
        for bad in ["#[ignore]", "#[ignore = \"slow\"]", "todo!()", "unimplemented!(\"later\")"] {
            assert_eq!(no_skips(&sample(&[("crates/smolvm/tests/a.rs", bad)])).len(), 1, "{bad}");
        }
        assert!(no_skips(&sample(&[("crates/smolvm/src/a.rs", "// no todo!() here\nlet ignored = 1;")])).is_empty());
    }
}
