//! Creations, starts and deletions that were killed in the middle, and rows that were written by hand.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{BOOT, Place, rows, tree};

/// `creating` and `deleting` with nobody at it are targets whatever their name; with somebody at it they are not.
#[test]
fn half_created_and_half_deleted_are_targets() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["half-deleted", "nearly-gone"]);
    for name in ["half-made", "bare", "at-work", "untouched"] {
        place.create(name, &[]);
    }
    rows::set_state(&place, "half-deleted", "deleting");
    rows::set_state(&place, "half-made", "creating");
    rows::set_state(&place, "at-work", "creating");
    // Only the row and an intent: killed before the first effect.
    rows::set_state(&place, "bare", "creating");
    std::fs::remove_dir_all(place.path("state/sandboxes/bare")).unwrap();
    rows::open(&place).execute("UPDATE ledger SET status = 'intended' WHERE sandbox = 'bare' AND kind = 'state_dir'", []).unwrap();
    // Everything done but the last transaction: killed before the row went.
    rows::set_state(&place, "nearly-gone", "deleting");
    std::fs::remove_dir_all(place.path("state/sandboxes/nearly-gone")).unwrap();
    std::fs::remove_dir_all(place.path("run/nearly-gone")).unwrap();
    let tap = place.taps(&place.mark("nearly-gone")).remove(0);
    place.host().ip(&format!("link delete {tap}")).unwrap();

    let lock = std::fs::File::create(place.path("state/locks/at-work.lock")).unwrap();
    lock.lock().unwrap();
    let dry = place.cleanup(&["--dry-run"]);
    assert_eq!(dry.targets(), ["bare", "half-deleted", "half-made", "nearly-gone"], "{}", dry.shown());
    assert!(dry.stale().is_empty(), "interrupted is not stale: {}", dry.shown());
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["bare", "half-deleted", "half-made", "nearly-gone"]);
    assert!(cleaned.steps_of("nearly-gone").contains(&("tap", "already_gone")), "{}", cleaned.shown());
    drop(lock);
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["at-work"], "with nobody at it any more it is one");
    assert_eq!(place.ids(), ["untouched"]);
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// The command is killed at moments spread over the whole of `create`.
#[test]
fn a_create_that_is_killed_leaves_nothing_that_is_not_found() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let begin = std::time::Instant::now();
    place.create("named-whole", &[]);
    let whole = begin.elapsed();
    for round in 0_u32..16 {
        let name = format!("named-{round}");
        let create = place.smolvm(&["create", "--image", "minimal", "--name", &name]).spawn();
        std::thread::sleep(whole * round / 14);
        create.signal(Signal::KILL);
        create.wait();
        let states = place.list();
        // Unless it came to its end, the name is free again after a cleanup.
        let made = states.get(&name).is_some_and(|sandbox| sandbox["state"] == "created");
        let cleaned = place.cleanup(&["--force"]);
        cleaned.assert_ok();
        assert_eq!(place.list().contains_key(&name), made, "{}", cleaned.shown());
        if !made {
            assert!(!place.path(&format!("state/sandboxes/{name}")).exists());
        }
    }
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Whether a moment of a start has come, for the sandbox of this name.
type Seen<'a> = &'a dyn Fn(&str) -> bool;

/// The command is killed at moments of `start` that show on the host.
#[test]
fn a_start_that_is_killed_is_cleaned_up_whole() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let install = place.install();
    let state =
        |name: &str| rows::open(&place).query_row("SELECT state FROM sandbox WHERE id = ?1", [name], |r| r.get::<_, String>(0)).ok();
    let marked = |name: &str| {
        let mark = format!("smolvm:{install}:{name}");
        testkit::process::all().iter().filter(|process| process.argv.contains(&mark)).count()
    };
    let moments: [(&str, Seen<'_>); 5] = [
        ("recorded", &|name| state(name).as_deref() == Some("starting")),
        ("run-dir", &|name| place.path(&format!("run/{name}/owner")).exists()),
        ("tap", &|name| !place.taps(&format!("smolvm:{install}:{name}")).is_empty()),
        ("monitor", &|name| marked(name) >= 1),
        ("hypervisor", &|name| marked(name) >= 2),
    ];
    for (moment, seen) in moments {
        let name = format!("vm-{moment}");
        place.create(&name, &[]);
        let start = place.smolvm(&["start", &name]).timeout(BOOT).spawn();
        testkit::until(moment, BOOT, || seen(&name).then_some(()));
        start.signal(Signal::KILL);
        start.wait();
        // A monitor that is at work goes on or ends by itself; until then the sandbox may be busy, and it may end just between the look and the deed.
        let cleaned = testkit::until("a cleanup that finds nobody at work", BOOT, || {
            let cleaned = place.cleanup(&["--force"]);
            assert!(cleaned.failed().iter().all(|(_, code)| matches!(*code, "busy" | "changed")), "{}", cleaned.shown());
            cleaned.failed().is_empty().then_some(cleaned)
        });
        assert!(place.ids().is_empty(), "{moment}: {}", cleaned.shown());
        testkit::until("every process of it has ended", Duration::from_secs(10), || (marked(&name) == 0).then_some(()));
        assert!(place.taps("smolvm:").is_empty(), "{moment}: {}", cleaned.shown());
    }
    oracle.assert_clean();
}

/// Rows that are no sandboxes: never acted on, told, and dropped by `doctor --fix` without touching a file.
#[test]
fn hostile_rows_touch_nothing() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.create("vm-good", &[]);
    let bait = place.scratch().join("bait");
    std::fs::create_dir(&bait).unwrap();
    std::fs::write(bait.join("precious"), "x").unwrap();
    let etc = tree("/etc/default".as_ref());
    let long = "vm-".to_owned() + &"a".repeat(297);
    let absolute = bait.to_str().unwrap();
    let hostile = ["../..", "../../../bait", absolute, "/etc/default", "vm-../../bait", "vm-a\nvm-b", "vm-\u{1b}[2J", &long, "", ".", "VM"];
    for id in hostile {
        rows::insert_like(&place, "vm-good", id);
    }
    let files = || {
        let mut files = tree(place.scratch());
        files.retain(|path, _| !path.contains("state.db"));
        files
    };
    let before = files();
    for args in [&["--dry-run", "--all"][..], &["--dry-run"]] {
        let dry = place.cleanup(args);
        dry.assert_partial();
        assert_eq!(dry.targets(), ["vm-good"], "{}", dry.shown());
        assert!(!dry.shown().contains('\u{1b}'), "nothing drives the reader's terminal");
    }
    let human = place.smolvm(&["cleanup", "--dry-run", "--all"]).run();
    assert!(!human.stdout.contains('\u{1b}') && human.stdout.contains("doctor --fix"), "{human}");
    assert_eq!(files(), before);

    let fix = place.smolvm(&["doctor", "--fix"]).run();
    assert_eq!(files(), before, "no file is touched\n{fix}");
    assert_eq!(rows::ids(&place), ["vm-good"], "{fix}");
    let left: i64 = rows::open(&place).query_row("SELECT count(*) FROM ledger WHERE sandbox != 'vm-good'", [], |r| r.get(0)).unwrap();
    assert_eq!(left, 0, "their entries go with them");
    assert!(!fix.stdout.contains('\u{1b}'), "{fix}");
    assert_eq!(tree("/etc/default".as_ref()), etc);

    // With hostile rows in the ledger, cleanup still does its work beside them and says so.
    for id in hostile {
        rows::insert_like(&place, "vm-good", id);
    }
    let cleaned = place.cleanup(&["--all", "--force"]);
    cleaned.assert_partial();
    assert_eq!(cleaned.deleted(), ["vm-good"], "{}", cleaned.shown());
    // Each is told once, whatever stands under it.
    assert_eq!(cleaned.failed().len(), hostile.len(), "{}", cleaned.shown());
    assert!(cleaned.list("failed").iter().all(|f| f["recovery"].as_str().is_some_and(|way| way.contains("doctor --fix"))));
    assert!(bait.join("precious").exists());
    assert_eq!(tree("/etc/default".as_ref()), etc);
    place.smolvm(&["doctor", "--fix"]).run();
    place.cleanup(&["--all", "--force"]).assert_ok();
    assert!(rows::ids(&place).is_empty());
    std::fs::remove_dir_all(&bait).unwrap();
    oracle.assert_clean();
}

/// Entries of a real sandbox that name what is not its own.
#[test]
fn hostile_entries_of_a_good_row_touch_nothing() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let bait = place.scratch().join("bait");
    std::fs::create_dir(&bait).unwrap();
    std::fs::write(bait.join("precious"), "x").unwrap();
    place.host().run("nft", &["add table inet others { chain c { comment \"theirs\"; }; }"]).unwrap();
    let cases = [
        ("tap", "up0"),
        ("tap", "lo"),
        ("state_dir", "../../../bait"),
        ("run_dir", "../../bait"),
        ("nft_elements", "source x; delete table inet others; y"),
        ("nft_elements", "opened up0"),
        ("uid", "0"),
        ("address", "192.0.2.1"),
    ];
    for (kind, key) in cases {
        place.seed(&["vm-a"]);
        let changed = rows::open(&place).execute("UPDATE ledger SET key = ?2 WHERE sandbox = 'vm-a' AND kind = ?1", [kind, key]);
        assert_eq!(changed.unwrap(), 1, "{kind}");
        let cleaned = place.cleanup(&["--force"]);
        let fixed = place.smolvm(&["doctor", "--fix"]).run();
        assert!(bait.join("precious").exists(), "{kind} {key}: {}", cleaned.shown());
        assert!(place.host().ip("link show up0").is_ok(), "{kind} {key}: {}", cleaned.shown());
        assert!(place.host().ip("-4 addr show dev up0").unwrap().contains("192.0.2.1"));
        assert!(place.nft().contains("table inet others"), "{kind} {key}: {}", cleaned.shown());
        // What the entry should have named is found by its mark: nothing stays behind.
        let again = place.cleanup(&["--force", "--all"]);
        again.assert_ok();
        assert!(place.ids().is_empty() && place.taps("smolvm:").is_empty(), "{kind} {key}: {}\n{fixed}", again.shown());
    }
    place.host().run("nft", &["delete table inet others"]).unwrap();
    std::fs::remove_dir_all(&bait).unwrap();
    oracle.assert_clean();
}
