//! A paused guest stands still, is refused nothing it had, and wakes with the right time.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{BOOT, Place, assert_ends};

const ID: &str = "box";

fn state(place: &Place) -> String {
    place.list()[ID]["state"].as_str().unwrap().to_owned()
}

fn exec(place: &Place, script: &str) -> String {
    let ran = place.smolvm(&["exec", ID, "--", "sh", "-c", script]).timeout(BOOT).run();
    ran.assert_ok();
    ran.stdout
}

/// Processor time of a process, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_paused_guest_stands_still_and_wakes_with_the_right_time() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let pair = place.boot(&[ID])[ID].clone();
    // Busy, so that standing still shows.
    exec(&place, "while :; do :; done & while :; do date +%s >> /tmp/beats; sleep 1; done &");
    let long = place.smolvm(&["exec", ID, "--", "sh", "-c", "sleep 4; echo done"]).timeout(BOOT).spawn();
    testkit::until("a heart that beats", BOOT, || (exec(&place, "wc -l < /tmp/beats").trim() != "0").then_some(()));
    for _ in 0..2 {
        place.ok(&["pause", ID]);
        assert_eq!(state(&place), "paused");
    }
    let refused = place.smolvm(&["exec", ID, "--", "true"]).run();
    refused.assert_code(125);
    assert!(refused.stderr.contains("is paused") && refused.stderr.contains("hint: smolvm resume box"), "{refused}");
    let before = ticks(pair.hypervisor.pid);
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks(pair.hypervisor.pid) - before;
    assert!(used < 30, "a paused guest used {used} ticks of the processor in 3 s");
    assert_eq!(place.cleanup(&["--dry-run"]).failed(), []);
    for _ in 0..2 {
        let sandbox = place.ok(&["resume", ID])["sandbox"].clone();
        assert_eq!(sandbox["state"], "running");
    }
    let (earliest, shown, latest) = (now(), exec(&place, "date +%s").trim().parse::<u64>().unwrap(), now());
    assert!((earliest..=latest).contains(&shown), "{shown} is not between {earliest} and {latest}");
    let long = long.wait();
    assert_eq!(long.stdout, "done\n", "{long}");
    place.ok(&["delete", ID]);
    oracle.assert_clean();
}

#[test]
fn a_paused_guest_is_stopped_in_order_and_a_dead_one_is_stale() {
    let place = Place::without_network();
    let oracle = place.oracle();
    for verb in ["pause", "resume"] {
        assert_eq!(place.envelope(&[verb, ID])["error"]["code"], "not_found");
    }
    place.create(ID, &[]);
    for verb in ["pause", "resume"] {
        let refused = place.envelope(&[verb, ID]);
        assert_eq!(
            (refused["error"]["code"].as_str(), refused["error"]["recovery"].as_str()),
            (Some("invalid_state"), Some("smolvm start box"))
        );
    }
    place.boot_made(&[ID]);
    exec(&place, "echo kept > /root/file");
    place.ok(&["pause", ID]);
    place.ok(&["stop", ID]);
    let started = place.smolvm(&["start", ID]).timeout(BOOT).run();
    started.assert_ok();
    assert_eq!(exec(&place, "cat /root/file"), "kept\n");
    place.ok(&["pause", ID]);
    let pair = place.pair(ID);
    assert!(pair.hypervisor.signal(rustix::process::Signal::KILL));
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    let sandbox = place.list()[ID].clone();
    assert_eq!((sandbox["state"].as_str(), sandbox["stale"].as_bool()), (Some("paused"), Some(true)));
    let refused = place.envelope(&["resume", ID]);
    assert_eq!(refused["error"]["code"], "invalid_state", "{refused:#}");
    assert_eq!(place.cleanup(&["--force"]).failed(), []);
    assert_eq!(place.ids(), Vec::<String>::new());
    oracle.assert_clean();
}
