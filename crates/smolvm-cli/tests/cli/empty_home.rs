//! A look at a home where nothing is yet: answers, and makes nothing.

use testkit::SealedEnv;

use crate::place::{files, json, run};

#[test]
fn looking_makes_nothing_on_disk() {
    let env = SealedEnv::new();
    let list = json(&env, &["list", "--json"]);
    assert_eq!(list["data"]["sandboxes"], serde_json::json!([]));
    assert_eq!(run(&env, &["list", "--quiet"]).stdout, "");
    assert_eq!(run(&env, &["__complete-names"]).stdout, "");
    let doctor = json(&env, &["doctor", "--json"]);
    assert!(doctor["data"]["checks"].as_array().unwrap().len() > 10);
    json(&env, &["setup", "--check", "--json"]);
    assert_eq!(files(&env), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_dry_run_makes_nothing_on_disk() {
    let env = SealedEnv::new();
    let dry = json(&env, &["cleanup", "--dry-run", "--json"]);
    assert_eq!(dry["data"]["dry_run"], true);
    assert_eq!(files(&env), Vec::<std::path::PathBuf>::new());
}

#[test]
fn doctor_fails_where_nothing_is_prepared_and_says_how_to_mend_it() {
    let env = SealedEnv::new();
    let ran = run(&env, &["doctor"]);
    ran.assert_code(1);
    assert!(ran.stdout.lines().any(|line| line.starts_with("fail  kernel")), "{ran}");
    assert!(ran.stdout.contains("fix: smolvm setup"), "{ran}");
    let envelope = json(&env, &["doctor", "--json"]);
    let data = &envelope["data"];
    let count = |word: &str| data["checks"].as_array().unwrap().iter().filter(|check| check["status"] == word).count();
    for word in ["pass", "warn", "fail"] {
        assert_eq!(data["summary"][word].as_u64().unwrap(), u64::try_from(count(word)).unwrap());
    }
    assert_eq!(envelope["error"]["code"], "partial_failure");
}

#[test]
fn removing_what_was_never_set_up_is_no_error() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["setup", "--remove", "--json"]);
    assert_eq!(envelope["data"]["freed_bytes"], 0);
}

#[test]
fn mending_a_home_without_a_ledger_mends_nothing() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["doctor", "--fix", "--json"]);
    assert_eq!(envelope["data"]["fixed"], serde_json::json!([]));
}
