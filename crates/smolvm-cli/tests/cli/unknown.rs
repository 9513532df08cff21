//! A sandbox that is not there, met by every verb, for people and for scripts.

use testkit::SealedEnv;

use crate::place::{code, files, json, run};

const HUMAN: &str = "error: there is no sandbox \"nobody\"\nhint: see what there is with: smolvm list\n";

#[test]
fn every_verb_says_the_same() {
    let env = SealedEnv::new();
    for verb in ["start", "stop", "inspect", "logs", "delete"] {
        let ran = run(&env, &[verb, "nobody"]);
        ran.assert_code(1);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", HUMAN), "{verb}");
        for words in [&[verb, "nobody", "--json"][..], &["sandbox", verb, "--json", "nobody"]] {
            let envelope = json(&env, words);
            assert_eq!(code(&envelope), "not_found");
            assert_eq!(envelope["command"], format!("sandbox.{verb}"));
            assert_eq!(envelope["exit_code"], 1);
        }
    }
    assert!(files(&env).is_empty(), "looking for a sandbox makes nothing: {:?}", files(&env));
}

#[test]
fn exec_says_it_with_125() {
    let env = SealedEnv::new();
    let ran = run(&env, &["exec", "nobody", "true"]);
    ran.assert_code(125);
    assert_eq!(ran.stderr, HUMAN);
    let envelope = json(&env, &["exec", "--json", "nobody", "true"]);
    assert_eq!((code(&envelope), envelope["exit_code"].as_i64()), ("not_found", Some(125)));
    assert!(files(&env).is_empty());
}

#[test]
fn run_without_its_image_says_it_with_125_and_the_way_to_get_it() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["run", "--json", "minimal", "true"]);
    assert_eq!((code(&envelope), envelope["exit_code"].as_i64()), ("not_found", Some(125)));
    assert_eq!(envelope["error"]["recovery"], "smolvm setup --image minimal");
    let create = json(&env, &["create", "--json"]);
    assert_eq!((code(&create), create["exit_code"].as_i64()), ("not_found", Some(1)));
    assert_eq!(create["error"]["recovery"], "smolvm setup --image debian");
    assert!(files(&env).is_empty(), "{:?}", files(&env));
}

#[test]
fn delete_tells_each_that_is_missing() {
    let env = SealedEnv::new();
    let envelope = json(&env, &["delete", "a", "b", "--json"]);
    assert_eq!(code(&envelope), "not_found");
    let failed = envelope["data"]["failed"].as_array().unwrap();
    assert_eq!(
        failed.iter().map(|f| (f["vm_id"].as_str().unwrap(), f["code"].as_str().unwrap())).collect::<Vec<_>>(),
        [("a", "not_found"), ("b", "not_found")]
    );
    let ignored = json(&env, &["rm", "a", "b", "--ignore-missing", "--json"]);
    assert_eq!(ignored["data"]["deleted"], serde_json::json!([]));
    run(&env, &["delete", "a", "--ignore-missing"]).assert_ok();
    assert!(files(&env).is_empty());
}
