//! Snapshots: what is restored is what was saved, as often as one likes, and nobody's work is lost on the way.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::{DRAWING, Place, assert_nothing_shared, until_drawn};

#[track_caller]
fn code(place: &Place, args: &[&str]) -> String {
    place.envelope(args)["error"]["code"].as_str().unwrap_or("ok").to_owned()
}

fn sandbox(place: &Place, id: &str) -> Value {
    place.ok(&["inspect", id])["sandbox"].clone()
}

fn names(place: &Place) -> Vec<String> {
    let snapshots = place.ok(&["snapshot", "list"])["snapshots"].as_array().unwrap().clone();
    snapshots.iter().map(|s| s["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_machine_goes_on_where_it_was_saved_as_often_as_one_likes() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.in_guest("src", "echo 1 > /root/file; echo memory > /dev/shm/file; sleep 100000 > /dev/null 2>&1 &");
    // So much that the most of it goes past the host's page cache.
    let large = place.in_guest("src", "head -c 9000000 /dev/urandom > /dev/shm/large; sha256sum /dev/shm/large");
    let saved = place.ok(&["snapshot", "create", "src"]);
    assert_eq!((saved["snapshot"]["name"].as_str(), saved["snapshot"]["kind"].as_str()), (Some("src-1"), Some("machine")));
    assert!(saved["halted_ms"].as_f64().unwrap() > 0.0, "{saved:#}");
    place.in_guest("src", "echo 2 > /root/file; echo later > /dev/shm/file");
    assert_eq!(place.in_guest("src", "cat /root/file"), "2\n", "the source goes on");
    assert_eq!(place.said(&["snapshot", "create", "src", "--name", "second"]), "second\n");
    assert_eq!(code(&place, &["snapshot", "restore", "src-1"]), "already_exists", "nobody is overwritten");
    place.ok(&["delete", "src"]);
    // Under the name it had, and beside it under another; each from its own moment.
    place.said(&["snapshot", "restore", "src-1"]);
    place.said(&["snapshot", "restore", "src-1", "--name", "again"]);
    place.said(&["snapshot", "restore", "second", "--name", "later"]);
    for (id, file, memory) in [("src", "1", "memory"), ("again", "1", "memory"), ("later", "2", "later")] {
        let all = place.in_guest(id, "cat /root/file /dev/shm/file; hostname; pidof sleep > /dev/null && echo asleep");
        assert_eq!(all, format!("{file}\n{memory}\n{id}\nasleep\n"));
        assert_eq!(place.in_guest(id, "sha256sum /dev/shm/large"), large);
        let seen = sandbox(&place, id);
        assert_eq!(seen["started_from"], "snapshot", "{seen:#}");
    }
    // What is restored is a sandbox like any other, and can be saved, too.
    place.in_guest("again", "echo 3 > /root/file");
    place.said(&["snapshot", "create", "again"]);
    assert_eq!(place.ok(&["snapshot", "inspect", "src-1", "--verify"])["damaged"], Value::Null);
    let details = place.ok(&["snapshot", "inspect", "again-1", "--verify"]);
    assert_eq!(
        (details["snapshot"]["parent"].as_str(), details["restorable"].as_bool(), details["damaged"].as_str()),
        (Some("src-1"), Some(true), None),
        "{details:#}"
    );
    place.ok(&["stop", "again"]);
    place.said(&["start", "again"]);
    assert_eq!(place.in_guest("again", "cat /root/file; ls /dev/shm | wc -l"), "3\n0\n");
    // Who was restored lives without the snapshot, and without whoever it was of.
    assert_eq!(names(&place).len(), 3);
    place.ok(&["snapshot", "delete", "src-1", "second", "again-1"]);
    assert_eq!(place.in_guest("later", "cat /dev/shm/file; ls / > /dev/null && echo reads"), "later\nreads\n");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// The same moment twice: what ran in it draws other numbers in each, and never under the name that was saved.
#[test]
fn nothing_runs_in_what_is_restored_before_it_is_another_guest() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.in_guest("src", DRAWING);
    until_drawn(&place, "src", 100);
    place.ok(&["snapshot", "create", "src", "--name", "one"]);
    let told = SystemTime::now().checked_sub(Duration::from_millis(100)).unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    place.said(&["snapshot", "restore", "one", "--name", "again-1"]);
    place.said(&["snapshot", "restore", "one", "--name", "again-2"]);
    assert_nothing_shared(&place, "src", &["again-1", "again-2"], told);
    place.cleanup(&["--all", "--force"]);
    place.ok(&["snapshot", "delete", "one"]);
    oracle.assert_clean();
}

#[test]
fn of_a_sandbox_that_does_not_run_the_disk_is_saved() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("src", &[]);
    assert_eq!(code(&place, &["snapshot", "create", "nobody"]), "not_found");
    place.said(&["snapshot", "create", "src", "--name", "empty"]);
    place.boot_made(&["src"]);
    // Not synced by who wrote it.
    place.in_guest("src", "echo kept > /root/file; echo memory > /dev/shm/file");
    place.said(&["snapshot", "create", "src", "--disk-only", "--name", "running"]);
    place.in_guest("src", "echo more >> /root/file");
    place.ok(&["stop", "src"]);
    place.said(&["snapshot", "create", "src", "--name", "stopped"]);
    for (snapshot, file) in [("empty", ""), ("running", "kept\n"), ("stopped", "kept\nmore\n")] {
        assert_eq!(place.ok(&["snapshot", "inspect", snapshot])["snapshot"]["kind"], "disk");
        let id = format!("of-{snapshot}");
        place.said(&["snapshot", "restore", snapshot, "--name", &id]);
        assert_eq!(place.in_guest(&id, "cat /root/file 2> /dev/null; ls /dev/shm | wc -l; hostname"), format!("{file}0\n{id}\n"));
        assert_ne!(sandbox(&place, &id)["started_from"], "snapshot");
    }
    // A machine can be restored as its disk, too.
    place.boot_made(&["src"]);
    // Not synced by who wrote it, either.
    place.in_guest("src", "echo last >> /root/file");
    place.said(&["snapshot", "create", "src", "--name", "whole"]);
    place.said(&["snapshot", "restore", "whole", "--disk-only", "--name", "files"]);
    assert_eq!(place.in_guest("files", "cat /root/file"), "kept\nmore\nlast\n");
    // A guest that stands still cannot write anything out.
    place.ok(&["pause", "src"]);
    assert_eq!(code(&place, &["snapshot", "create", "src", "--disk-only"]), "invalid_state");
    assert_eq!(sandbox(&place, "src")["state"], "paused");
    place.cleanup(&["--all", "--force"]);
    assert_eq!(names(&place).len(), 4, "cleanup takes sandboxes, and nobody's snapshots");
    place.ok(&["snapshot", "delete", "empty", "running", "stopped", "whole"]);
    oracle.assert_clean();
}

#[test]
fn what_is_wrong_with_a_snapshot_is_said_and_changes_nothing() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.said(&["snapshot", "create", "src", "--name", "one"]);
    assert_eq!(code(&place, &["snapshot", "create", "src", "--name", "one"]), "already_exists");
    assert_eq!(code(&place, &["snapshot", "restore", "none"]), "not_found");
    assert_eq!(code(&place, &["snapshot", "delete", "one", "none"]), "not_found");
    assert_eq!(names(&place), ["one"], "of two of which one is not there none is deleted");
    for bad in ["../one", "", "One", "a/b"] {
        assert_eq!(code(&place, &["snapshot", "restore", bad]), "usage_error", "{bad:?}");
        assert_eq!(code(&place, &["snapshot", "create", "src", "--name", bad]), "usage_error", "{bad:?}");
    }
    let file = |name: &str| place.path("state/snapshots/saved/one").join(name);
    // Saved under another hypervisor.
    let manifest = std::fs::read_to_string(file("manifest.json")).unwrap();
    let written = |text: &str| {
        std::fs::remove_file(file("manifest.json")).unwrap();
        std::fs::write(file("manifest.json"), text).unwrap();
    };
    let facts: Value = serde_json::from_str(&manifest).unwrap();
    let hypervisor = facts["facts"]["hypervisor"].as_str().unwrap();
    written(&manifest.replace(hypervisor, "6.0.0 another"));
    let refused = place.envelope(&["snapshot", "restore", "one", "--name", "copy"]);
    assert_eq!(refused["error"]["code"], "unsupported");
    assert!(refused["error"]["message"].as_str().unwrap().contains("hypervisor: was 6.0.0 another"), "{refused:#}");
    assert!(refused["error"]["recovery"].as_str().unwrap().contains("--disk-only"), "{refused:#}");
    assert_eq!(place.ok(&["snapshot", "inspect", "one"])["restorable"], false);
    place.said(&["snapshot", "restore", "one", "--disk-only", "--name", "files"]);
    // Written by a newer smolvm, and by nobody.
    written(&manifest.replace("\"version\": 2", "\"version\": 99"));
    assert_eq!(code(&place, &["snapshot", "restore", "one"]), "internal");
    assert_eq!(names(&place), Vec::<String>::new());
    written(&manifest);
    // The state of its devices is not one: the copy fails, and nothing of it stays.
    let devices = std::fs::read(file("devices")).unwrap();
    std::fs::write(file("devices"), b"nonsense").unwrap();
    let damaged = place.envelope(&["snapshot", "inspect", "one", "--verify"]);
    assert_eq!((damaged["error"]["code"].as_str(), damaged["data"]["damaged"].as_str()), (Some("partial_failure"), Some("devices")));
    assert_ne!(code(&place, &["snapshot", "restore", "one", "--name", "copy"]), "ok");
    assert_eq!(place.ids(), ["files", "src"]);
    std::fs::write(file("devices"), devices).unwrap();
    place.said(&["snapshot", "restore", "one", "--name", "copy"]);
    place.assert_answers("copy");
    place.ok(&["delete", "copy", "files", "src"]);
    place.ok(&["snapshot", "delete", "one"]);
    oracle.assert_clean();
}
