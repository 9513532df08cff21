//! What people are shown. The command line is a program, so its file is compiled in here as it is.

#[path = "../../crates/smolvm-cli/src/output/harmless.rs"]
mod output;

/// Nothing a guest writes drives a terminal, and what is harmless stays as it is.
pub(crate) fn console(bytes: &[u8]) {
    let log = smolvm::Smolvm::harmless(bytes);
    assert!(log.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
    let line = output::harmless(&String::from_utf8_lossy(bytes));
    assert!(!line.chars().any(char::is_control));
    assert_eq!(output::harmless(&line), line);
}
