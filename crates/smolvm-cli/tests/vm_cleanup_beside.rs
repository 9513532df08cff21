//! `cleanup` beside the other commands on the same sandboxes: no error that is not `busy`, no
//! sandbox half deleted.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{BOOT, Cleaned, Place, envelope};

/// Codes with which a command may fail because a cleanup came first: the sandbox is gone, being worked on, or there again.
const OVERTAKEN: [&str; 5] = ["busy", "not_found", "already_exists", "invalid_state", "changed"];

#[test]
fn beside_create_start_stop_and_delete() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let over = AtomicBool::new(false);
    let verb = |args: &[&str]| {
        let ran = place.smolvm(args).arg("--json").timeout(BOOT).run();
        let answer = envelope(&ran);
        if answer["ok"] == false {
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            assert!(OVERTAKEN.contains(&code), "{ran}");
        }
    };
    let life = |name: &str| {
        for _ in 0..2 {
            verb(&["create", "--image", "minimal", "--name", name]);
            verb(&["start", name]);
            // Nobody holds its lock while it only works: now a cleanup can take it.
            place.smolvm(&["exec", name, "--", "sleep", "1"]).timeout(BOOT).run();
            verb(&["stop", name]);
            verb(&["start", name]);
            verb(&["delete", name]);
        }
    };
    thread::scope(|scope| {
        // One under the prefix, which is taken whatever it does, and one that is not.
        let workers = [scope.spawn(|| life("vm-a")), scope.spawn(|| life("named"))];
        let cleaner = scope.spawn(|| {
            let mut runs = Vec::new();
            while !over.load(Ordering::Relaxed) {
                runs.push(Cleaned::of(&place.smolvm(&["cleanup", "--force", "--json"]).run()));
                thread::sleep(std::time::Duration::from_millis(150));
            }
            runs
        });
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        let runs = cleaner.join().unwrap();
        for end in ended {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        for cleaned in &runs {
            // `changed` is what is told of a target that moved on between the look and its lock.
            let expected = |code: &str| matches!(code, "busy" | "changed");
            assert!(cleaned.failed().iter().all(|(_, code)| expected(code)), "{}", cleaned.shown());
            // Its own `delete` may come first, which counts as deleted; a cleanup never does a step of it.
            assert!(cleaned.steps_of("named").is_empty(), "a named sandbox at work was taken down: {}", cleaned.shown());
        }
        assert!(runs.iter().any(|cleaned| cleaned.deleted().contains(&"vm-a")), "the cleanups met no sandbox at all");
    });
    place.cleanup(&["--all", "--force"]).assert_ok();
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}

/// A create that is at work is no interrupted one, however often somebody cleans up beside it.
#[test]
fn a_create_at_work_is_left_alone() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let cleaned = place.cleanup(&["--force"]);
                assert!(cleaned.targets().is_empty() && cleaned.failed().is_empty(), "{}", cleaned.shown());
                assert!(cleaned.list("orphans").is_empty(), "what is being made is no orphan: {}", cleaned.shown());
            }
        });
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for i in 0..12 {
                place.create(&format!("named-{i}"), &[]);
            }
        }));
        over.store(true, Ordering::Relaxed);
        cleaner.join().unwrap();
        made.unwrap();
    });
    assert_eq!(place.ids().len(), 12);
    place.cleanup(&["--all", "--force"]).assert_ok();
    oracle.assert_clean();
}
