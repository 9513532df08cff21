//! What is settled once: who has the last word, and what a file may not say.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use testkit::{Ran, SealedEnv};

use crate::place::{run, smolvm};
use crate::schema::check_envelope;

/// The value of a key and who said so, as `config show` tells it.
fn shown(ran: &Ran, key: &str) -> (Option<String>, String) {
    let envelope = ran.json();
    check_envelope(&envelope);
    let settings = envelope["data"]["settings"].as_array().unwrap().clone();
    let one = settings.iter().find(|one| one["key"] == key).unwrap_or_else(|| panic!("{key}: {ran}"));
    (one["value"].as_str().map(str::to_owned), one["from"].as_str().unwrap().to_owned())
}

fn said(value: &str, from: &str) -> (Option<String>, String) {
    (Some(value.to_owned()), from.to_owned())
}

#[test]
fn the_line_is_stronger_than_the_environment_and_that_than_the_file() {
    let env = SealedEnv::new();
    let show = ["config", "show", "--json"];
    assert_eq!(shown(&run(&env, &show), "sandbox.cpus"), (None, "default".to_owned()));
    run(&env, &["config", "set", "sandbox.cpus", "2"]).assert_ok();
    assert_eq!(shown(&run(&env, &show), "sandbox.cpus"), said("2", "file"));
    let variable = |words: &[&str]| smolvm(&env, words).env("SMOLVM_SANDBOX_CPUS", "3").run();
    assert_eq!(shown(&variable(&show), "sandbox.cpus"), said("3", "environment"));
    assert_eq!(shown(&variable(&[&["--set", "sandbox.cpus=4"], &show[..]].concat()), "sandbox.cpus"), said("4", "line"));
    let pools = smolvm(&env, &[&show[..], &["--set", "pool.debian=3"]].concat()).env("SMOLVM_POOL", "minimal=2,debian=1").run();
    assert_eq!(shown(&pools, "pool.minimal"), said("2", "environment"));
    assert_eq!(shown(&pools, "pool.debian"), said("3", "line"));
    let mirrors = smolvm(&env, &show).env("SMOLVM_MIRROR", "docker.io=near.example:5000").run();
    assert_eq!(shown(&mirrors, "mirror.docker.io"), said("near.example:5000", "environment"));
}

#[test]
fn what_is_set_is_got_and_what_is_unset_is_not() {
    let env = SealedEnv::new();
    let path = run(&env, &["config", "path"]);
    path.assert_ok();
    let path = std::path::PathBuf::from(path.stdout.trim_end());
    assert!(!path.exists(), "asking makes nothing");
    for words in [&["config", "set", "sandbox.memory", "1G"][..], &["config", "set", "pool.debian", "2", "--json"]] {
        run(&env, words).assert_ok();
    }
    assert_eq!(run(&env, &["config", "get", "sandbox.memory"]).stdout, "1G\n");
    let mut text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "[sandbox]\nmemory = \"1G\"\n\n[pool]\ndebian = 2\n");
    text.insert_str(0, "# by hand\n");
    std::fs::write(&path, &text).unwrap();
    let unset = run(&env, &["config", "unset", "sandbox.memory", "--json"]);
    check_envelope(&unset.json());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "# by hand\n[sandbox]\n\n[pool]\ndebian = 2\n");
    let got = run(&env, &["config", "get", "sandbox.memory"]);
    got.assert_ok();
    assert_eq!(got.stdout, "");
    check_envelope(&run(&env, &["config", "get", "pool.debian", "--json"]).json());
    check_envelope(&run(&env, &["config", "path", "--json"]).json());
}

#[test]
fn a_bad_setting_is_one_clear_error_and_changes_nothing() {
    let env = SealedEnv::new();
    run(&env, &["config", "set", "sandbox.cpus", "2"]).assert_ok();
    let path = run(&env, &["config", "path"]).stdout.trim_end().to_owned();
    let before = std::fs::read(&path).unwrap();
    for (words, says) in [
        (&["config", "set", "sandbox.color", "red"][..], "no setting"),
        (&["config", "set", "sandbox.cpus", "many"], "sandbox.cpus cannot be"),
        (&["config", "set", "pool.debian", "1000"], "0 to 64"),
        (&["config", "get", "pool"], "no setting"),
        (&["config", "show", "--set", "sandbox.cpus"], "has no '='"),
        (&["create", "--set", "sandbox.net=wifi"], "tap, user or none"),
    ] {
        let ran = run(&env, words);
        ran.assert_code(2);
        assert!(ran.stderr.contains(says), "{words:?}: {ran}");
    }
    let ran = smolvm(&env, &["config", "show"]).env("SMOLVM_SANDBOX_TTL", "soon").run();
    ran.assert_code(2);
    assert!(ran.stderr.contains("SMOLVM_SANDBOX_TTL"), "{ran}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    for (text, says) in [("[sandbox]\ncpus = 2\nmemori = 1\n", "line 3"), ("[sandbox\n", "line 1"), ("[sandbox]\ncpus = [1]\n", "line 2")] {
        std::fs::write(&path, text).unwrap();
        for words in [&["config", "show"][..], &["run", "minimal", "--", "true"]] {
            let ran = run(&env, words);
            assert_ne!(ran.code(), Some(0));
            assert!(ran.stderr.contains(says) && ran.stderr.contains("config.toml"), "{words:?}: {ran}");
        }
    }
}

/// What was written is written; and it can be the first of two things that are to be mended.
#[test]
fn what_else_is_wrong_is_told_and_fails_no_write() {
    let env = SealedEnv::new();
    run(&env, &["config", "set", "sandbox.cpus", "2"]).assert_ok();
    let path = run(&env, &["config", "path"]).stdout.trim_end().to_owned();
    let (one, other) = ("[sandbox]\nmemori = 1\ncpus = 2\n", "[sandbox]\ncpus = 2\n");
    for (before, variable, says) in [(one, "", "line 2"), (other, "soon", "SMOLVM_SANDBOX_TTL")] {
        for (words, after, setting) in [
            (&["config", "set", "sandbox.cpus", "3"][..], before.replace("cpus = 2", "cpus = 3"), json!({"value": "3", "from": "file"})),
            (&["config", "unset", "sandbox.cpus"], before.replace("cpus = 2\n", ""), json!({"value": null, "from": "default"})),
        ] {
            let ran = |more: &[&str]| {
                std::fs::write(&path, before).unwrap();
                let cmd = smolvm(&env, &[words, more].concat());
                let ran = if variable.is_empty() { cmd } else { cmd.env("SMOLVM_SANDBOX_TTL", variable) }.run();
                assert_eq!(std::fs::read_to_string(&path).unwrap(), after, "{ran}");
                ran
            };
            let told = ran(&[]);
            told.assert_ok();
            assert!(told.stderr.contains("is written") && told.stderr.contains(says), "{told}");
            assert_eq!(ran(&["--quiet"]).assert_ok().stderr, "");
            let told = ran(&["--json"]);
            told.assert_ok();
            check_envelope(&told.json());
            let data = &told.json()["data"];
            assert!(data["note"].as_str().unwrap().contains(says), "{told}");
            for key in ["value", "from"] {
                assert_eq!(data["setting"][key], setting[key], "{told}");
            }
        }
    }
    let fine = run(&env, &["config", "set", "sandbox.cpus", "2", "--json"]).json();
    check_envelope(&fine);
    assert_eq!((&fine["data"]["note"], &fine["data"]["setting"]["value"]), (&json!(null), &json!("2")));
}

#[test]
fn who_takes_the_name_of_an_image_reads_the_configuration_and_nobody_else_does() {
    let env = SealedEnv::new();
    run(&env, &["config", "set", "sandbox.cpus", "2"]).assert_ok();
    let path = run(&env, &["config", "path"]).stdout.trim_end().to_owned();
    std::fs::write(&path, "[registry\n").unwrap();
    for words in [
        &["create", "--image", "a"][..],
        &["run", "a", "--", "true"],
        &["template", "build", "a"],
        &["pool", "fill"],
        &["image", "pull", "a"],
        &["image", "load", "a.tar"],
        &["image", "save", "a", "-o", "a.tar"],
        &["image", "import", "a", "--name", "a"],
        &["image", "debootstrap", "--name", "a"],
        &["image", "inspect", "a"],
        &["image", "history", "a"],
        &["image", "tag", "a", "b"],
        &["image", "rm", "a"],
    ] {
        let ran = run(&env, words);
        assert_ne!(ran.code(), Some(0), "{words:?}");
        assert!(ran.stderr.contains("config.toml"), "{words:?}: {ran}");
    }
    // What takes things away does not depend on it.
    for words in [
        &["list"][..],
        &["cleanup", "--force"],
        &["prune"],
        &["df"],
        &["stats"],
        &["snapshot", "list"],
        &["template", "list"],
        &["template", "delete", "--all"],
        &["image", "list"],
        &["image", "prune", "--all"],
        &["delete", "--ignore-missing", "vm-a"],
    ] {
        run(&env, words).assert_ok();
    }
    for verb in ["start", "stop", "pause", "resume", "inspect", "logs", "exec", "fork"] {
        let words = [&[verb, "vm-a"][..], if verb == "exec" { &["--", "true"] } else { &[] }].concat();
        let ran = run(&env, &words);
        assert!(ran.stderr.contains("vm-a") && !ran.stderr.contains("config.toml"), "{words:?}: {ran}");
    }
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let env = SealedEnv::new();
    run(&env, &["config", "set", "sandbox.cpus", "2"]).assert_ok();
    let path = run(&env, &["config", "path"]).stdout.trim_end().to_owned();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ran = run(&env, &["config", "show", "--json"]);
    ran.assert_code(1);
    assert_eq!(ran.json()["error"]["code"], "refused", "{ran}");
}
