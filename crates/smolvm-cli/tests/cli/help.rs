//! Help: whole, stable, the same under every name.

use testkit::SealedEnv;

use crate::place::{SMOLVM, run, smolvm, snapshot};

const VERBS: [&str; 20] = [
    "run",
    "create",
    "start",
    "stop",
    "fork",
    "pause",
    "resume",
    "list",
    "inspect",
    "stats",
    "exec",
    "logs",
    "delete",
    "setup",
    "doctor",
    "cleanup",
    "prune",
    "df",
    "completion",
    "version",
];

#[test]
fn help_of_every_command() {
    let env = SealedEnv::new();
    for verb in VERBS {
        let long = run(&env, &[verb, "--help"]);
        long.assert_ok();
        assert_eq!(long.stderr, "");
        snapshot(&format!("help-{verb}"), &long.stdout);
        assert_eq!(run(&env, &[verb, "-h"]).stdout, long.stdout, "{verb}");
        let grouped = run(&env, &["sandbox", verb, "--help"]);
        assert_eq!(grouped.stdout.replace("smolvm sandbox ", "smolvm "), long.stdout, "{verb}");
    }
    snapshot("help", &run(&env, &["--help"]).stdout);
}

#[test]
fn cleanup_and_doctor_point_to_each_other() {
    let env = SealedEnv::new();
    assert!(run(&env, &["cleanup", "--help"]).stdout.contains("See also: smolvm doctor"));
    assert!(run(&env, &["doctor", "--help"]).stdout.contains("See also: smolvm cleanup"));
}

#[test]
fn aliases_are_the_same_command() {
    let env = SealedEnv::new();
    for (alias, verb) in [("ls", "list"), ("ps", "list"), ("info", "inspect"), ("rm", "delete")] {
        assert_eq!(run(&env, &[alias, "--help"]).stdout, run(&env, &[verb, "--help"]).stdout, "{alias}");
    }
}

#[test]
fn nothing_asked_for_is_a_usage_error_with_help() {
    let env = SealedEnv::new();
    for words in [&[][..], &["sandbox"]] {
        let ran = run(&env, words);
        ran.assert_code(2);
        assert_eq!(ran.stdout, "");
        assert!(ran.stderr.contains("Usage:"), "{ran}");
    }
}

#[test]
fn version_in_every_form() {
    let env = SealedEnv::new();
    let text = format!("smolvm {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&env, &["--version"]).stdout, text);
    assert_eq!(run(&env, &["-V"]).stdout, text);
    assert_eq!(run(&env, &["version"]).stdout, text);
    let envelope = crate::place::json(&env, &["version", "--json"]);
    assert_eq!(envelope["data"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn smolvm_cleanup_is_cleanup_by_its_own_name() {
    let env = SealedEnv::new();
    let link = env.scratch().join("smolvm-cleanup");
    std::os::unix::fs::symlink(SMOLVM, &link).unwrap();
    let help = env.cmd(&link).arg("--help").run();
    assert_eq!(
        help.stdout.replace("smolvm-cleanup [OPTIONS]", "smolvm cleanup [OPTIONS]").replace("  -V, --version          Print version\n", ""),
        smolvm(&env, &["cleanup", "--help"]).run().stdout
    );
    assert_eq!(env.cmd(&link).args(&["--dry-run", "--json"]).run().json()["command"], "cleanup");
    let wrong = env.cmd(&link).args(&["--json", "--nope"]).run();
    wrong.assert_code(2);
    assert_eq!(wrong.json()["command"], "cleanup");
    env.cmd(&link).run().assert_code(1);
}

#[test]
fn help_into_a_closed_pipe_is_no_panic() {
    let env = SealedEnv::new();
    for words in ["--help", "completion bash", "list"] {
        let ran = env.cmd("sh").args(&["-c", &format!("{{ {SMOLVM} {words}; echo \"status $?\" >&2; }} | true")]).run();
        assert!(ran.stderr.contains("status 0"), "{ran}");
        assert!(!ran.stderr.contains("panic"), "{ran}");
    }
}
