//! Stdout that does not take what is written.

use testkit::SealedEnv;

use crate::place::SMOLVM;

#[test]
fn a_full_device_is_an_error() {
    let env = SealedEnv::new();
    let ran = env.cmd("sh").args(&["-c", &format!("{SMOLVM} version >/dev/full")]).run();
    ran.assert_code(1);
    assert!(ran.stderr.starts_with("error: the output could not be written\ncaused by: No space left"), "{ran}");
}

#[test]
fn closed_streams_are_no_panic() {
    let env = SealedEnv::new();
    for (redirect, status) in [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0)] {
        let ran = env.cmd("sh").args(&["-c", &format!("{SMOLVM} list {redirect}")]).run();
        ran.assert_code(status);
        assert!(!ran.stderr.contains("panic"), "{ran}");
    }
    let ran = env.cmd("sh").args(&["-c", &format!("{SMOLVM} inspect nobody 2>&-")]).run();
    ran.assert_code(1);
}

#[test]
fn no_colour_ever_reaches_a_pipe() {
    let env = SealedEnv::new();
    for words in ["doctor", "inspect nobody", "--help", "list"] {
        let ran = env.cmd("sh").args(&["-c", &format!("{SMOLVM} {words}")]).without_env("NO_COLOR").env("TERM", "xterm-256color").run();
        assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
    }
}
