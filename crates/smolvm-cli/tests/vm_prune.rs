//! `prune` and `df`: what nobody needs goes, what somebody needs stays, and the sizes are those of `du`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::Place;

/// What went, or would, as pairs of part and name.
fn removed(data: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    data["removed"].as_array().unwrap().iter().map(|one| (text(&one["part"]), text(&one["name"]))).collect()
}

/// Blocks on the disk beneath these paths, counted by somebody else.
fn du(place: &Place, paths: &[&Path]) -> u64 {
    let words: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let ran = place.cmd("du").args(&[&["-s", "-B1", "-c", "-D"], &words[..]].concat()).run();
    ran.assert_ok();
    ran.stdout.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn bytes_of(usage: &Value, part: &str) -> u64 {
    usage["parts"].as_array().unwrap().iter().find(|one| one["part"] == part).unwrap()["bytes"].as_u64().unwrap()
}

#[test]
fn what_nobody_needs_goes_and_what_somebody_needs_stays() {
    let place = Place::without_network().owning_images();
    let oracle = place.oracle();
    place.create("made", &[]);
    let image = place.ok(&["inspect", "made"])["sandbox"]["image_digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    // Its name leads elsewhere now, as after another build: the sandbox needs the old one.
    let names = place.path("cache/images/by-name");
    let other = std::fs::read_to_string(names.join("minimal")).unwrap();
    std::fs::remove_file(names.join("minimal")).unwrap();
    std::fs::create_dir(place.path("cache/images").join("e".repeat(64))).unwrap();
    let key = {
        std::fs::write(names.join("minimal"), &other).unwrap();
        let key = place.said(&["template", "build", "minimal", "--net", "none"]).trim_end().to_owned();
        std::fs::remove_file(names.join("minimal")).unwrap();
        key
    };
    let dry = place.ok(&["prune", "--all", "--dry-run"]);
    let unneeded = [("template".to_owned(), key.clone()), ("image".to_owned(), "e".repeat(64))];
    assert!(unneeded.iter().all(|one| removed(&dry).contains(one)), "{dry:#}");
    assert!(!removed(&dry).iter().any(|(_, name)| *name == image), "a sandbox needs it: {dry:#}");
    assert!(dry["freed_bytes"].as_u64().unwrap() > 0 && dry["dry_run"] == true);
    assert!(place.path("cache/templates").join(&key).exists(), "it was only said");
    // A template of this boot that was forked lately stays unless all is asked for; so does the last one.
    for words in [&["prune"][..], &["prune", "--until", "1h"], &["prune", "--all", "--keep", "1"]] {
        let data = place.ok(words);
        assert!(!removed(&data).iter().any(|(part, _)| part == "template"), "{words:?}: {data:#}");
    }
    assert!(!place.path("cache/images").join("e".repeat(64)).exists());
    // A snapshot needs its image when the sandbox is gone.
    place.said(&["snapshot", "create", "made", "--name", "saved"]);
    place.ok(&["delete", "made"]);
    let data = place.ok(&["prune", "--all"]);
    assert_eq!(removed(&data), [("template".to_owned(), key)], "{data:#}");
    assert_eq!(removed(&place.ok(&["prune", "--all"])), []);
    let refused = place.envelope(&["setup", "--remove"]);
    assert_eq!(refused["error"]["code"], "refused", "a snapshot needs what setup made: {refused:#}");
    place.ok(&["snapshot", "delete", "saved"]);
    assert!(removed(&place.ok(&["prune", "--all"])).contains(&("image".to_owned(), image)));
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn the_sizes_are_those_of_du_and_of_proc() {
    let place = Place::without_network().owning_images();
    let oracle = place.oracle();
    place.boot(&["one"]);
    place.said(&["exec", "one", "--", "sh", "-c", "head -c 20000000 /dev/urandom > /root/file; sync"]);
    place.said(&["snapshot", "create", "one"]);
    // Of an image that is gone, long ago.
    let layer = place.path("cache/blobs").join("e".repeat(64));
    std::fs::create_dir_all(layer.parent().unwrap()).unwrap();
    std::fs::write(&layer, vec![1; 100_000]).unwrap();
    std::fs::File::options().write(true).open(&layer).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    // At rest, so that nothing is written between the two looks.
    place.ok(&["pause", "one"]);
    // A file system counts blocks that it has yet to give out a little differently from those it has.
    place.cmd("sync").args(&["-f", place.home().to_str().unwrap()]).run().assert_ok();
    let usage = place.ok(&["df"]);
    let [state, cache] = ["state", "cache"].map(|part| place.path(part));
    assert_eq!(usage["total_bytes"].as_u64().unwrap(), du(&place, &[&state, &cache]), "{usage:#}");
    for (part, path) in
        [("sandboxes", "state/sandboxes"), ("templates", "cache/templates"), ("images", "cache/images"), ("layers", "cache/blobs")]
    {
        assert_eq!(bytes_of(&usage, part), du(&place, &[&place.path(path)]), "{part}: {usage:#}");
    }
    // The disk that both have is counted with the sandbox, as `du` counts what it meets again.
    let sandboxes = place.path("state/sandboxes");
    let both = du(&place, &[&sandboxes, &place.path("state/snapshots")]);
    assert_eq!(bytes_of(&usage, "snapshots"), both - du(&place, &[&sandboxes]), "{usage:#}");
    let parts: u64 = usage["parts"].as_array().unwrap().iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(usage["total_bytes"], parts, "the parts are all of it");
    assert!(bytes_of(&usage, "sandboxes") > 20_000_000 && bytes_of(&usage, "snapshots") > 20_000_000, "{usage:#}");
    let own = place.ok(&["stats"])["sandboxes"][0]["own_bytes"].as_u64().unwrap();
    assert_eq!(usage["running"], 1);
    assert!(usage["own_memory_bytes"].as_u64().unwrap().abs_diff(own) < 1 << 20, "{usage:#}");
    // What it says could go is what goes.
    let dry = place.ok(&["prune", "--dry-run"])["freed_bytes"].as_u64().unwrap();
    assert_eq!(usage["prunable_bytes"].as_u64().unwrap(), dry);
    let before = du(&place, &[&cache]);
    let freed = place.ok(&["prune", "--all"])["freed_bytes"].as_u64().unwrap();
    assert_eq!(before - du(&place, &[&cache]), freed);
    place.ok(&["delete", "one"]);
    place.ok(&["snapshot", "delete", "one-1"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn what_is_being_made_is_left_alone_and_wrong_words_are_told() {
    let place = Place::without_network().owning_images();
    let oracle = place.oracle();
    std::fs::create_dir(place.path("cache/images").join("e".repeat(64))).unwrap();
    std::fs::create_dir_all(place.path("cache/locks")).unwrap();
    // As whoever makes an image, of whatever name.
    let lock = std::fs::File::create(place.path("cache/locks/images.lock")).unwrap();
    lock.try_lock_shared().unwrap();
    let busy = place.envelope(&["prune"]);
    assert_eq!(
        (busy["error"]["code"].as_str(), busy["data"]["failed"][0]["code"].as_str()),
        (Some("partial_failure"), Some("busy")),
        "{busy:#}"
    );
    assert!(place.path("cache/images").join("e".repeat(64)).exists());
    drop(lock);
    assert!(removed(&place.ok(&["prune"])).contains(&("image".to_owned(), "e".repeat(64))));
    for words in [&["prune", "--until", "soon"][..], &["prune", "--all", "--until", "1h"], &["prune", "--keep", "x"], &["df", "x"]] {
        assert_eq!(place.envelope(words)["error"]["code"], "usage_error", "{words:?}");
    }
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}
