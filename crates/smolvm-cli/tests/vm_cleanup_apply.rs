//! A plan in a file: done exactly, or refused because the host is no longer what the plan was made of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{BOOT, Cleaned, Place, assert_ends, rows, tree};

/// Writes what a dry run prints into a file.
fn plan(place: &Place, name: &str, args: &[&str]) -> (PathBuf, Value) {
    let ran = place.smolvm(&[&["cleanup", "--dry-run", "--json"], args].concat()).run();
    ran.assert_ok();
    let file = place.scratch().join(name);
    std::fs::write(&file, &ran.stdout).unwrap();
    (file, serde_json::from_str(&ran.stdout).unwrap())
}

fn apply(place: &Place, file: &std::path::Path) -> Cleaned {
    Cleaned::of(&place.smolvm(&["cleanup", "--apply", file.to_str().unwrap(), "--force", "--json"]).run())
}

#[track_caller]
fn refused(cleaned: &Cleaned, code: &str, word: &str) {
    let message = cleaned.error["message"].as_str().unwrap_or_default();
    assert!(cleaned.code != 0 && cleaned.error["code"] == code && message.contains(word), "{}", cleaned.shown());
}

/// Guests, a stale sandbox and an orphan: everything the plan names goes, and nothing else; a second time there is nothing of it.
#[test]
fn a_plan_is_done_exactly_and_once() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-runs"])["vm-runs"].clone();
    place.seed(&["stale", "vm-stale"]);
    place.create("named", &[]);
    let (file, printed) = plan(&place, "plan.json", &[]);
    let again = plan(&place, "again.json", &[]).1;
    assert_eq!(printed["data"]["plan"], again["data"]["plan"], "two looks at the same host");
    assert_eq!(printed["data"]["plan"]["version"], 1);
    // The data alone will do, too.
    let bare = place.scratch().join("bare.json");
    std::fs::write(&bare, printed["data"].to_string()).unwrap();
    let done = apply(&place, &bare);
    done.assert_ok();
    assert_eq!(json!(done.deleted()), printed["data"]["targets"]);
    assert_eq!(done.data["plan"], printed["data"]["plan"]);
    assert_ends(&pair.hypervisor);
    assert_eq!(rows::ids(&place), ["named"]);
    refused(&apply(&place, &file), "changed", "vm-runs");
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Every way in which the host can differ from what was looked at.
#[test]
fn a_plan_is_refused_once_the_host_has_changed() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    place.create("vm-idle", &[]);
    let (file, _) = plan(&place, "plan.json", &[]);
    let unchanged = |what: &str, change: &dyn Fn(), back: &dyn Fn()| {
        change();
        let (before, before_rows) = (tree(place.home()), rows::dump(&place));
        let cleaned = apply(&place, &file);
        refused(&cleaned, "changed", "");
        assert!(cleaned.error["recovery"].as_str().unwrap().contains("--dry-run"), "{what}: {}", cleaned.shown());
        assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows), "{what} changed something");
        back();
    };
    let nothing = || {};
    unchanged("a new target", &|| place.create("vm-new", &[]), &|| drop(place.ok(&["delete", "vm-new"])));
    // As it was again: the plan is good again. Tried without doing it.
    let mark = |name: &str| plan(&place, name, &[]).1["data"]["plan"].clone();
    let original: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(mark("second.json"), original["data"]["plan"]);
    let start = || {
        place.smolvm(&["start", "vm-idle"]).timeout(BOOT).run().assert_ok();
    };
    unchanged("a target that runs now", &start, &nothing);
    let (file_running, _) = plan(&place, "running.json", &[]);
    place.ok(&["stop", "vm-idle"]);
    refused(&apply(&place, &file_running), "changed", "in another state");
    // The same state as planned once more, by another run of the same guest.
    start();
    refused(&apply(&place, &file_running), "changed", "in another state");
    // What is on the host without a record is part of it.
    let (file_orphan, _) = plan(&place, "orphan.json", &[]);
    let orphan = place.path("state/sandboxes/vm-orphan");
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("owner"), place.mark("vm-orphan")).unwrap();
    refused(&apply(&place, &file_orphan), "changed", "");
    assert!(orphan.exists() && rows::ids(&place) == ["vm-a", "vm-idle"]);
    // Another scope is another plan, and says which it was.
    let (file_all, printed) = plan(&place, "all.json", &["--all"]);
    assert_eq!(printed["data"]["all"], true);
    apply(&place, &file_all).assert_ok();
    assert!(rows::ids(&place).is_empty() && !orphan.exists());
    oracle.assert_clean();
}

#[test]
fn what_is_no_plan_is_refused_and_changes_nothing() {
    let place = Place::without_network();
    let other = Place::without_network();
    let (oracle, others) = (place.oracle(), other.oracle());
    place.create("vm-a", &[]);
    let (file, printed) = plan(&place, "plan.json", &[]);
    let (before, before_rows) = (tree(place.home()), rows::dump(&place));
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut value = printed.clone();
        edit(&mut value["data"]);
        value.to_string()
    };
    let table: [(&str, String, &str, &str); 9] = [
        ("empty", String::new(), "usage_error", "JSON"),
        ("noise", "\u{1b}[2J}{".to_owned(), "usage_error", "JSON"),
        ("list", "[1]".to_owned(), "usage_error", "dry run"),
        ("done", edited(&|data| data["dry_run"] = json!(false)), "usage_error", "dry run"),
        ("unmarked", edited(&|data| data["plan"] = Value::Null), "usage_error", "version"),
        ("newer", edited(&|data| data["plan"]["version"] = json!(2)), "unsupported", "version 2"),
        ("scope", edited(&|data| data["prefix"] = json!("../..")), "usage_error", "prefix"),
        ("forged", edited(&|data| data["plan"]["fingerprint"] = json!("sha256:00")), "changed", ""),
        // More than was planned, under the fingerprint of what was planned: what counts is the new look's.
        ("widened", edited(&|data| (data["all"], data["prefix"]) = (json!(true), Value::Null)), "changed", ""),
    ];
    for (name, text, code, word) in &table {
        let path = place.scratch().join(name);
        std::fs::write(&path, text).unwrap();
        refused(&apply(&place, &path), code, word);
    }
    refused(&apply(&place, &place.scratch().join("missing")), "not_found", "cannot be read");
    refused(&apply(&place, place.scratch()), "usage_error", "regular file");
    refused(&apply(&place, std::path::Path::new("/dev/zero")), "usage_error", "regular file");
    refused(&apply(&other, &file), "refused", "another installation");
    // It asks like any other cleanup, and goes with no other way to say what is meant.
    let path = file.to_str().unwrap();
    place.smolvm(&["cleanup", "--apply", path]).run().assert_code(1);
    place.smolvm(&["cleanup", "--apply", path, "--json"]).run().assert_code(1);
    for more in [&["--all"][..], &["--prefix", "vm-"], &["--dry-run"]] {
        place.smolvm(&[&["cleanup", "--apply", path, "--force"], more].concat()).run().assert_code(2);
    }
    assert_eq!((tree(place.home()), rows::dump(&place)), (before, before_rows));
    apply(&place, &file).assert_ok();
    oracle.assert_clean();
    others.assert_clean();
}
