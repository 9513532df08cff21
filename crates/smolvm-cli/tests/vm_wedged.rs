//! Parts that do not do what they are told: a deadline, a reason, and nothing given to others that is not proven free.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::process::{ForeignRawFd, PidfdGetfdFlags, Signal, pidfd_getfd};
use support::{BOOT, Place, SOON, assert_ends, rows};
use testkit::{Freezer, HungMount, process};

/// What the ledger reserves for a sandbox and nobody else may get.
fn names(place: &Place, id: &str) -> BTreeSet<String> {
    let database = rows::open(place);
    let mut query =
        database.prepare("SELECT kind || ' ' || key FROM ledger WHERE sandbox = ?1 AND kind IN ('address', 'mac', 'uid', 'tap')").unwrap();
    let found = query.query_map([id], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(query);
    found
}

/// A hypervisor that not even SIGKILL ends. Where the host cannot hold a process like that, smolvm is made to believe it.
#[test]
fn what_cannot_be_ended_is_told_and_keeps_all_it_may_still_use() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-a"]).remove("vm-a").unwrap();
    let held = names(&place, "vm-a");
    assert_eq!(held.len(), 4, "{held:?}");
    let freezer = Freezer::new();
    let stuck = |args: &[&str]| {
        let cmd = place.smolvm(args).arg("--json").timeout(BOOT);
        if freezer.is_some() {
            return support::envelope(&cmd.run());
        }
        let trace = place.scratch().join("trace");
        support::envelope(&cmd.env("SMOLVM_TEST_TRACE", trace).env("SMOLVM_TEST_FAULT", "etimedout@before:end-hypervisors").run())
    };
    if let Some(freezer) = &freezer {
        freezer.freeze(pair.hypervisor.pid);
    }
    // Twice: the second one goes as far as the first.
    for _ in 0..2 {
        std::fs::remove_file(place.scratch().join("trace")).ok();
        let cleaned = stuck(&["cleanup", "--force"]);
        let failed = &cleaned["data"]["failed"][0];
        assert_eq!(
            (failed["vm_id"].as_str(), failed["code"].as_str(), failed["step"].as_str()),
            (Some("vm-a"), Some("timeout"), Some("process")),
            "{cleaned:#}"
        );
        assert!(failed["recovery"].as_str().unwrap().contains("smolvm delete vm-a"), "{cleaned:#}");
        let skipped: Vec<&str> = cleaned["data"]["steps"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|s| s["outcome"] == "skipped")
            .map(|s| s["kind"].as_str().unwrap())
            .collect();
        for kind in ["tap", "nft_elements", "state_dir", "address", "mac", "uid"] {
            assert!(skipped.contains(&kind), "{kind}: {cleaned:#}");
        }
    }
    // Its disk is there, its names are its own, and a new sandbox gets others.
    assert!(place.path("state/sandboxes/vm-a/data.img").exists());
    assert_eq!(names(&place, "vm-a"), held);
    place.create("vm-b", &[]);
    assert!(names(&place, "vm-b").is_disjoint(&held));
    let start = place.envelope(&["start", "vm-a"]);
    assert_eq!(start["error"]["code"], "invalid_state", "{start:#}");
    if let Some(freezer) = &freezer {
        freezer.thaw();
        assert_ends(&pair.hypervisor);
    }
    place.cleanup(&["--force"]).assert_ok();
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}

/// A monitor that does not answer costs `stop` its deadline; then the machine is ended all the same, and it says so.
#[test]
fn a_monitor_that_does_not_answer_is_passed_over() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["named"]).remove("named").unwrap();
    assert!(pair.monitor.signal(Signal::STOP));
    let exec = place.smolvm(&["exec", "--timeout", "2s", "named", "--", "true"]).timeout(BOOT).run();
    assert_ne!(exec.code(), Some(0), "{exec}");
    let stop = place.envelope(&["stop", "--timeout", "2s", "named"]);
    assert!(matches!(stop["error"]["code"].as_str(), Some("timeout" | "guest_error")), "{stop:#}");
    assert!(stop["error"]["message"].as_str().unwrap().contains("did not shut down in order"), "{stop:#}");
    assert_eq!(place.list()["named"]["state"], "stopped");
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    assert!(place.taps("smolvm:").is_empty());
    place.cleanup(&["--all", "--force"]).assert_ok();
    oracle.assert_clean();
}

/// A guest whose processor stands still hears nothing of a shutdown.
#[test]
fn a_guest_that_ignores_the_shutdown_meets_the_deadline() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["named"]).remove("named").unwrap();
    assert!(pair.hypervisor.signal(Signal::STOP));
    let stop = place.envelope(&["stop", "--timeout", "2s", "named"]);
    assert!(stop["error"]["message"].as_str().unwrap().contains("did not shut down in order"), "{stop:#}");
    assert_eq!(place.list()["named"]["state"], "stopped");
    assert_ends(&pair.hypervisor);
    place.cleanup(&["--all", "--force"]).assert_ok();
    oracle.assert_clean();
}

/// Somebody else has the TAP open: it goes all the same, and what they hold is a device that is no more.
#[test]
fn a_tap_that_somebody_else_holds_open_goes() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-a"]).remove("vm-a").unwrap();
    let handle = process::pidfd(pair.hypervisor.pid).unwrap();
    let is_tap = |fd: &i32| {
        let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", pair.hypervisor.pid));
        link.is_ok_and(|link| link.to_str() == Some("/dev/net/tun"))
    };
    let number: ForeignRawFd = (0..64).find(is_tap).expect("the hypervisor's TAP");
    let held: OwnedFd = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()).unwrap();
    assert!(pair.hypervisor.signal(Signal::KILL));
    testkit::until("the sandbox is stale", SOON, || (place.list()["vm-a"]["stale"] == true).then_some(()));
    assert_eq!(place.taps("smolvm:").len(), 1, "held open it is there");
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert!(cleaned.steps_of("vm-a").contains(&("tap", "released")), "{}", cleaned.shown());
    assert!(place.taps("smolvm:").is_empty());
    drop(held);
    oracle.assert_clean();
}

/// A network mount whose server went away: over one sandbox's directory it costs a deadline and that sandbox, over the
/// state directory it is told at once what does not answer.
#[test]
fn a_mount_that_does_not_answer_costs_its_own_sandbox_and_nobody_waits_for_ever() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a", "vm-b"]);
    let hang = |path: &str| place.inside(|| HungMount::new(&place.path(path)));
    let disk = hang("state/sandboxes/vm-a");
    let cleaned = support::envelope(&place.smolvm(&["cleanup", "--force", "--json"]).timeout(BOOT).run());
    assert_eq!(cleaned["data"]["deleted"], serde_json::json!(["vm-b"]), "{cleaned:#}");
    let failed = &cleaned["data"]["failed"][0];
    assert_eq!((&failed["vm_id"], &failed["code"], &failed["step"]), (&"vm-a".into(), &"unreachable".into(), &"state_dir".into()));
    assert_eq!(place.ids(), ["vm-a"]);
    assert!(names(&place, "vm-a").len() >= 3, "its names were given away");
    place.inside(|| drop(disk));
    let whole = hang("state");
    let told = place.smolvm(&["list", "--json"]).timeout(BOOT).run();
    assert_eq!(support::envelope(&told)["error"]["code"], "unreachable", "{told}");
    place.inside(|| drop(whole));
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}
