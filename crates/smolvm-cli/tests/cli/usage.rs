//! Command lines that are wrong: one clear error, exit status 2, nothing done.

use std::fmt::Write;

use testkit::SealedEnv;

use crate::place::{code, files, json, run, snapshot};

/// Each line, as it is typed.
const WRONG: [&[&str]; 29] = [
    &["frobnicate"],
    &["--frobnicate"],
    &["list", "--frobnicate"],
    &["list", "extra"],
    &["list", "--filter", "state=gone"],
    &["list", "--filter", "nonsense"],
    &["list", "--quiet", "--verbose"],
    &["inspect"],
    &["inspect", "../.."],
    &["inspect", ""],
    &["inspect", "Upper"],
    &["inspect", "a\nb"],
    &["create", "--name", "-a"],
    &["create", "--memory", "1"],
    &["create", "--memory", "99999999999999999999"],
    &["create", "--cpus", "0"],
    &["create", "--disk-size", "20T"],
    &["create", "--net", "host"],
    &["create", "--env", "1A=x"],
    &["create", "--label", "novalue"],
    &["create", "--ttl", "5"],
    &["create", "--accel", "magic"],
    &["create", "--image", "../etc"],
    &["create", "--timeout", "5s"],
    &["run", "minimal"],
    &["exec", "vm-a"],
    &["completion", "tcsh"],
    &["setup", "--check", "--remove"],
    &["create", "--image", "minimal", "--cold"],
];

#[test]
fn every_wrong_line_is_told_clearly() {
    let env = SealedEnv::new();
    let mut told = String::new();
    for words in WRONG {
        let ran = run(&env, words);
        ran.assert_code(2);
        assert_eq!(ran.stdout, "", "{ran}");
        assert!(ran.stderr.starts_with("error: "), "{ran}");
        assert!(ran.stderr.lines().skip(1).all(|line| line.starts_with("hint: ")), "{ran}");
        let _ = write!(told, "$ smolvm {words:?}\n{}", ran.stderr);
    }
    snapshot("usage", &told);
    assert!(files(&env).is_empty());
}

#[test]
fn with_json_a_wrong_line_is_an_envelope_too() {
    let env = SealedEnv::new();
    for words in WRONG {
        let line: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        // A guest command may have a `--json` of its own, but here there is none.
        let envelope = json(&env, &line);
        assert_eq!(code(&envelope), "usage_error", "{words:?}");
        assert_eq!(envelope["exit_code"], 2);
        assert!(envelope["data"].is_null());
    }
    let nothing = json(&env, &["--json"]);
    assert_eq!((nothing["command"].as_str(), code(&nothing)), (Some("smolvm"), "usage_error"));
}

#[test]
fn the_command_is_named_even_when_its_arguments_are_wrong() {
    let env = SealedEnv::new();
    for (words, path) in [
        (&["create", "--json", "--cpus", "x"][..], "sandbox.create"),
        (&["sandbox", "ls", "--json", "--nope"], "sandbox.list"),
        (&["--home", "/x", "rm", "--json"], "sandbox.delete"),
        (&["doctor", "--json", "--nope"], "doctor"),
        (&["cleanup", "--json", "--nope"], "cleanup"),
    ] {
        assert_eq!(json(&env, words)["command"], path, "{words:?}");
    }
}

#[test]
fn an_endless_argument_is_not_repeated_to_its_end() {
    let env = SealedEnv::new();
    let long = "x".repeat(100_000);
    let ran = run(&env, &["inspect", &long]);
    ran.assert_code(2);
    assert!(ran.stderr.len() < 1000, "{} bytes", ran.stderr.len());
    let hostile = "../".repeat(100);
    run(&env, &["delete", &hostile]).assert_code(2);
    assert!(files(&env).is_empty());
}

#[test]
fn what_is_wrong_cannot_drive_a_terminal() {
    let env = SealedEnv::new();
    let ran = run(&env, &["inspect", "a\u{1b}[2Jb"]);
    ran.assert_code(2);
    assert!(!ran.stderr.contains('\u{1b}'), "{ran:?}");
}

#[test]
fn a_switch_said_twice_is_said_once() {
    let env = SealedEnv::new();
    run(&env, &["cleanup", "--force", "-f", "--dry-run", "--dry-run"]).assert_ok();
    run(&env, &["list", "--quiet", "-q", "--filter", "stale=true", "--filter", "image=minimal"]).assert_ok();
    assert_eq!(json(&env, &["list", "--json", "--json"])["ok"], true);
}
