//! A sealed home, the binary in it, and snapshots of what it says.

use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::{Cmd, Ran, SealedEnv};

use crate::schema;

/// The binary under test.
pub(crate) const SMOLVM: &str = env!("CARGO_BIN_EXE_smolvm");

/// `smolvm` with these words.
pub(crate) fn smolvm<'a>(env: &'a SealedEnv, words: &[&str]) -> Cmd<'a> {
    env.cmd(SMOLVM).args(words)
}

/// Runs it.
pub(crate) fn run(env: &SealedEnv, words: &[&str]) -> Ran {
    smolvm(env, words).run()
}

/// Runs it with `--json` among the words, holds the output against the schemas, and gives the envelope.
pub(crate) fn json(env: &SealedEnv, words: &[&str]) -> Value {
    assert!(words.contains(&"--json"), "{words:?}");
    let ran = run(env, words);
    let envelope = ran.json();
    schema::check_envelope(&envelope);
    assert_eq!(Some(envelope["exit_code"].as_i64().unwrap()), ran.code().map(i64::from), "{ran}");
    assert_eq!(ran.stderr, "", "{ran}");
    assert_eq!(ran.stdout.lines().count(), 1, "one object on one line\n{ran}");
    envelope
}

/// The error of a failed command: its code.
pub(crate) fn code(envelope: &Value) -> &str {
    assert_eq!(envelope["ok"], false, "{envelope}");
    envelope["error"]["code"].as_str().unwrap()
}

/// Holds `text` against `tests/snapshots/<name>.txt`.
#[track_caller]
pub(crate) fn snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(format!("{name}.txt"));
    if blessed() {
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "{} differs; SMOLVM_BLESS=1 writes it anew\n--- there\n{there}\n--- now\n{text}", path.display());
}

#[expect(clippy::disallowed_methods, reason = "a switch of the tests, not of the product")]
fn blessed() -> bool {
    std::env::var_os("SMOLVM_BLESS").is_some_and(|value| value == "1")
}

/// Every path beneath the home.
pub(crate) fn files(env: &SealedEnv) -> Vec<PathBuf> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            into.push(path.clone());
            if path.is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut found = Vec::new();
    walk(env.home(), &mut found);
    found.sort();
    found
}
