//! What every command prints about a real sandbox, held against the published schemas.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cli/schema.rs"]
mod schema;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::{LeakOracle, Ran, Scope, SealedEnv, Stdin, until};

/// One command with `--json`; its envelope.
fn json(env: &SealedEnv, words: &[&str]) -> Value {
    checked(&env.smolvm(words).run())
}

fn checked(ran: &Ran) -> Value {
    let envelope = ran.json();
    schema::check_envelope(&envelope);
    assert_eq!(envelope["exit_code"].as_i64(), ran.code().map(i64::from), "{ran}");
    envelope
}

/// The state of a sandbox, or nothing.
fn states(env: &SealedEnv) -> Vec<(String, String)> {
    let list = json(env, &["list", "--json"]);
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    list["data"]["sandboxes"].as_array().unwrap().iter().map(|s| (text(&s["id"]), text(&s["state"]))).collect()
}

#[test]
fn one_life_of_a_sandbox() {
    let env = SealedEnv::with_images();
    let oracle = LeakOracle::snapshot(Scope::home(env.home()));
    let create =
        ["create", "--json", "--name", "box", "--image", "minimal", "--net", "none", "--label", "team=ci", "--env", "A=1", "--ttl", "1h"];
    let created = json(&env, &create);
    let sandbox = &created["data"]["sandbox"];
    assert_eq!(
        (sandbox["id"].as_str(), sandbox["state"].as_str(), sandbox["memory_mib"].as_u64(), sandbox["disk_bytes"].as_u64()),
        (Some("box"), Some("created"), Some(128), Some(8 << 30))
    );
    assert_eq!((&sandbox["process"], &sandbox["network"], &sandbox["labels"]["team"]), (&Value::Null, &Value::Null, &"ci".into()));
    let twice = json(&env, &create);
    assert_eq!(twice["error"]["code"], "already_exists");

    let not_yet = json(&env, &["exec", "--json", "box", "true"]);
    assert_eq!((not_yet["error"]["code"].as_str(), not_yet["exit_code"].as_i64()), (Some("invalid_state"), Some(125)));

    let started = json(&env, &["start", "--json", "box"]);
    assert_eq!(started["data"]["sandbox"]["state"], "running");
    let inspected = json(&env, &["inspect", "--json", "box"]);
    assert_eq!(inspected["data"]["enforced"]["no_new_privs"], true);
    assert!(inspected["data"]["sandbox"]["process"]["pid"].as_i64().unwrap() > 1);
    assert_eq!(env.smolvm(&["list", "--quiet", "--filter", "state=running", "--filter", "label=team=ci"]).run().stdout, "box\n");
    assert_eq!(env.smolvm(&["list", "--quiet", "--filter", "state=stopped"]).run().stdout, "");
    assert_eq!(env.smolvm(&["__complete-names"]).run().stdout, "box\n");
    let logs = json(&env, &["logs", "--json", "--tail", "3", "box"]);
    assert!(logs["data"]["text"].as_str().unwrap().lines().count() <= 3);
    let human = env.smolvm(&["inspect", "box"]).run();
    assert!(human.stdout.starts_with("id:          box\nstate:       running\n"), "{human}");

    execs(&env);
    copies(&env);

    let stopped = json(&env, &["stop", "--json", "box"]);
    assert_eq!((stopped["data"]["sandbox"]["state"].as_str(), &stopped["data"]["sandbox"]["process"]), (Some("stopped"), &Value::Null));
    let deleted = json(&env, &["sandbox", "rm", "--json", "box"]);
    assert_eq!(deleted["data"]["deleted"], serde_json::json!(["box"]));
    assert!(states(&env).is_empty());
    oracle.assert_clean();
}

/// What is said of copies, and of what they are made from.
fn copies(env: &SealedEnv) {
    let forked = json(env, &["fork", "--json", "box", "--name", "copy"]);
    assert_eq!((forked["command"].as_str(), forked["data"]["sandboxes"][0]["started_from"].as_str()), (Some("sandbox.fork"), Some("fork")));
    let saved = json(env, &["snapshot", "create", "--json", "copy"]);
    assert_eq!((saved["command"].as_str(), saved["data"]["snapshot"]["parent"].as_str()), (Some("snapshot.create"), Some("box")));
    assert_eq!(json(env, &["snapshot", "list", "--json"])["data"]["snapshots"][0], saved["data"]["snapshot"]);
    assert_eq!(json(env, &["snapshot", "inspect", "--json", "--verify", "copy-1"])["data"]["verified"], true);
    let restored = json(env, &["snapshot", "restore", "--json", "copy-1", "--name", "again"]);
    assert_eq!(restored["data"]["sandbox"]["started_from"], "snapshot");
    let again = json(env, &["snapshot", "restore", "--json", "copy-1", "--name", "again"]);
    assert_eq!(again["error"]["code"], "already_exists");
    assert_eq!(json(env, &["snapshot", "delete", "--json", "copy-1"])["data"]["deleted"], serde_json::json!(["copy-1"]));
    json(env, &["delete", "--json", "copy", "again"]);
}

/// Every way a guest command ends.
fn execs(env: &SealedEnv) {
    let exec = |words: &[&str]| json(env, &[&["exec", "--json"], words].concat());
    let table: [(&[&str], i64, Option<&str>); 9] = [
        (&["box", "--", "true"], 0, None),
        (&["box", "--", "sh", "-c", "exit 37"], 37, Some("guest_error")),
        (&["box", "--", "sh", "-c", "kill -9 $$"], 137, Some("guest_error")),
        (&["box", "--", "no-such-command"], 127, Some("not_found")),
        (&["box", "--", "/etc/passwd"], 126, Some("guest_error")),
        (&["-w", "/no/such/place", "box", "true"], 125, Some("guest_error")),
        (&["-u", "nobody-of-that-name", "box", "true"], 125, Some("guest_error")),
        (&["--timeout", "1s", "box", "sleep", "60"], 124, Some("timeout")),
        (&["box", "sh", "-c", "exit 0", "--json"], 0, None),
    ];
    for (words, status, code) in table {
        let envelope = exec(words);
        assert_eq!((envelope["exit_code"].as_i64(), envelope["error"]["code"].as_str()), (Some(status), code), "{words:?}\n{envelope}");
        assert_eq!(envelope["data"]["exit_code"], status);
    }
    let both = exec(&["-e", "B=2", "-w", "/tmp", "box", "--", "sh", "-c", "echo $A$B; pwd; echo wrong >&2"]);
    assert_eq!((both["data"]["stdout"].as_str(), both["data"]["stderr"].as_str()), (Some("12\n/tmp\n"), Some("wrong\n")));
    let much = exec(&["box", "--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
    assert_eq!((much["data"]["stdout"].as_str().unwrap().len(), &much["data"]["truncated"]), (1 << 20, &Value::Bool(true)));

    // For people the guest's bytes are passed on as they are, and its status is the only word about it.
    let streams = env.smolvm(&["exec", "box", "--", "sh", "-c", "printf 'a\\033\\377'; printf b >&2; exit 3"]).run();
    streams.assert_code(3);
    assert_eq!((streams.stdout_bytes.as_slice(), streams.stderr.as_str()), (&b"a\x1b\xff"[..], "b"));
    let stdin = env.smolvm(&["exec", "-i", "box", "cat"]).stdin(Stdin::Bytes(vec![b'z'; 300_000])).run();
    assert_eq!(stdin.stdout_bytes.len(), 300_000);
    assert_eq!(env.smolvm(&["exec", "box", "cat"]).stdin(Stdin::Bytes(b"not passed on".to_vec())).run().stdout, "");

    // A reader that goes away ends the command, as it would a local one.
    let smolvm = testkit::prerequisite::smolvm_bin();
    let pipe = env.cmd("sh").args(&["-c", &format!("{{ {} exec box yes; echo \"status $?\" >&2; }} | head -n1", smolvm.display())]).run();
    assert_eq!((pipe.stdout.as_str(), pipe.stderr.as_str()), ("y\n", "status 141\n"));
}

#[test]
fn run_removes_its_sandbox_however_it_ends() {
    let env = SealedEnv::with_images();
    let oracle = LeakOracle::snapshot(Scope::home(env.home()));
    let run = ["run", "--net", "none"];
    let done = checked(&env.smolvm(&run).args(&["--json", "minimal", "--", "sh", "-c", "hostname; exit 5"]).run());
    assert_eq!((done["command"].as_str(), done["exit_code"].as_i64()), (Some("sandbox.run"), Some(5)));
    let id = done["data"]["id"].as_str().unwrap();
    assert!(id.starts_with("vm-"));
    assert_eq!(done["data"]["stdout"].as_str().unwrap().trim(), id, "the hostname is the id");
    assert!(states(&env).is_empty());

    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let running = env.smolvm(&run).args(&["minimal", "--", "sh", "-c", "touch /tmp/here; sleep 600"]).spawn();
        let id = until("the sandbox runs", Duration::from_mins(1), || {
            states(&env).into_iter().find_map(|(id, state)| (state == "running").then_some(id))
        });
        until("the command runs", Duration::from_mins(1), || {
            (env.smolvm(&["exec", &id, "test", "-e", "/tmp/here"]).run().code() == Some(0)).then_some(())
        });
        running.signal(signal);
        let ran = running.wait();
        ran.assert_code(status);
        assert!(states(&env).is_empty(), "{ran}");
    }

    let kept = env.smolvm(&run).args(&["--keep", "--name", "kept", "minimal", "true"]).run();
    kept.assert_ok();
    assert_eq!(states(&env), [("kept".to_owned(), "running".to_owned())]);
    let cleaned = json(&env, &["cleanup", "--all", "--force", "--json"]);
    assert_eq!((&cleaned["data"]["deleted"], &cleaned["data"]["prefix"]), (&serde_json::json!(["kept"]), &Value::Null));
    assert!(!cleaned["data"]["steps"].as_array().unwrap().is_empty());
    oracle.assert_clean();
}
