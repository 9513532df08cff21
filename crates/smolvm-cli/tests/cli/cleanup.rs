//! `cleanup` before it looks at anything: usage and refusals.

use testkit::{SealedEnv, Stdin};

use crate::place::{code, files, json, run, smolvm};

#[test]
fn without_a_terminal_it_refuses() {
    let env = SealedEnv::new();
    for stdin in [Stdin::Null, Stdin::Closed, Stdin::Bytes(b"y\n".to_vec()), Stdin::Bytes(Vec::new())] {
        for words in [&["cleanup"][..], &["cleanup", "--all"], &["cleanup", "--prefix", "x"], &["sandbox", "cleanup"]] {
            let ran = smolvm(&env, words).stdin(stdin.clone()).run();
            ran.assert_code(1);
            assert_eq!(ran.stdout, "");
            assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains("add --force"), "{ran}");
        }
    }
}

#[test]
fn with_json_it_refuses_whatever_the_terminal() {
    let env = SealedEnv::new();
    for stdin in [Stdin::Null, Stdin::Terminal(b"y\n".to_vec())] {
        let ran = smolvm(&env, &["cleanup", "--json"]).stdin(stdin).run();
        ran.assert_code(1);
        let envelope = ran.json();
        crate::schema::check_envelope(&envelope);
        assert_eq!((envelope["command"].as_str(), code(&envelope)), (Some("cleanup"), "refused"));
        assert!(envelope["error"]["message"].as_str().unwrap().contains("--force"));
        assert!(envelope["data"].is_null());
    }
}

#[test]
fn an_empty_prefix_points_to_all() {
    let env = SealedEnv::new();
    // Usage comes before refusal: no --force makes it right.
    for words in [&["cleanup", "--prefix", "", "--json"][..], &["cleanup", "--prefix=", "--json", "--force"]] {
        let envelope = json(&env, words);
        assert_eq!((code(&envelope), envelope["exit_code"].as_i64()), ("usage_error", Some(2)));
        assert!(envelope["error"]["recovery"].as_str().unwrap().contains("--all"));
    }
    let ran = run(&env, &["cleanup", "--prefix", "", "--dry-run"]);
    ran.assert_code(2);
    assert!(ran.stderr.contains("--all"), "{ran}");
}

#[test]
fn a_prefix_that_no_id_can_have_is_a_usage_error() {
    let env = SealedEnv::new();
    for prefix in ["../", "/", "A", "a b", "a\n", &"x".repeat(300)] {
        assert_eq!(code(&json(&env, &["cleanup", "--force", "--json", "--prefix", prefix])), "usage_error", "{prefix:?}");
    }
}

#[test]
fn all_with_prefix_is_a_usage_error() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["cleanup", "--all", "--prefix", "vm-", "--force", "--json"]);
    assert_eq!((code(&envelope), envelope["exit_code"].as_i64()), ("usage_error", Some(2)));
    run(&env, &["cleanup", "--all", "--prefix", "vm-"]).assert_code(2);
}

#[test]
fn nothing_to_do_is_one_sentence() {
    let env = SealedEnv::new();
    for (words, sentence) in [
        (&["cleanup", "--force"][..], "There is nothing to clean up.\n"),
        (&["cleanup", "--dry-run"], "There is nothing to clean up.\n"),
        (&["cleanup", "--all", "-f"], "There is nothing to clean up: there are no sandboxes.\n"),
    ] {
        let ran = run(&env, words);
        ran.assert_ok();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (sentence, ""));
    }
    // Nobody has to be asked about nothing.
    let ran = smolvm(&env, &["cleanup"]).stdin(Stdin::Terminal(Vec::new())).run();
    ran.assert_ok();
    assert_eq!(ran.stdout, "There is nothing to clean up.\n");
}

#[test]
fn the_data_of_nothing_has_every_field() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["cleanup", "--force", "--json", "--all"]);
    assert_eq!(envelope["data"]["prefix"], serde_json::Value::Null);
    assert_eq!(envelope["data"]["all"], true);
    let envelope = json(&env, &["cleanup", "--dry-run", "--json"]);
    assert_eq!((envelope["data"]["prefix"].as_str(), &envelope["data"]["all"]), (Some("vm-"), &serde_json::Value::Bool(false)));
    assert!(!files(&env).iter().any(|path| path.ends_with("state.db")), "a dry run makes no ledger");
}
