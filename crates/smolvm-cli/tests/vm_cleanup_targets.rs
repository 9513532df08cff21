//! `cleanup` on real sandboxes: what is a target, what is not, and that everything of a target goes.

mod support;

use rustix::process::Signal;
use support::{Place, assert_ends, rows, tree};

/// One host with a sandbox of every kind, looked at, and cleaned in two steps.
#[test]
fn every_kind_of_end_is_found_and_only_targets_go() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pairs = place.boot(&["vm-runs", "vm-stopped", "hv-killed", "mon-killed", "both-killed", "named-runs"]);
    place.create("named-made", &[]);
    place.create("vm-made", &[]);
    place.smolvm(&["stop", "vm-stopped"]).run().assert_ok();

    // Killed behind its back, each in its way.
    assert!(pairs["hv-killed"].hypervisor.signal(Signal::KILL));
    assert!(pairs["mon-killed"].monitor.signal(Signal::KILL));
    assert!(pairs["both-killed"].monitor.signal(Signal::KILL));
    pairs["both-killed"].hypervisor.signal(Signal::KILL);
    for name in ["hv-killed", "mon-killed", "both-killed"] {
        // A hypervisor does not outlive its monitor; a monitor whose hypervisor was killed ends.
        assert_ends(&pairs[name].hypervisor);
        assert_ends(&pairs[name].monitor);
    }
    let stale = ["both-killed", "hv-killed", "mon-killed"];
    let targets = ["both-killed", "hv-killed", "mon-killed", "vm-made", "vm-runs", "vm-stopped"];
    for (id, sandbox) in place.list() {
        assert_eq!(sandbox["stale"], stale.contains(&id.as_str()), "{sandbox:#}");
    }

    // Looking changes nothing: no row, no file, no device.
    let (before, before_rows, before_taps) = (tree(place.home()), rows::dump(&place), place.taps("smolvm:"));
    let before_nft = place.nft();
    let dry = place.cleanup(&["--dry-run"]);
    dry.assert_ok();
    assert_eq!((dry.targets(), dry.stale(), dry.deleted()), (targets.to_vec(), stale.to_vec(), vec![]), "{}", dry.shown());
    assert_eq!(
        (dry.data["dry_run"].clone(), dry.data["all"].clone(), dry.data["prefix"].clone()),
        (true.into(), false.into(), "vm-".into())
    );
    let planned: Vec<&str> = dry.steps_of("vm-runs").into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(
        planned,
        ["process", "monitor", "nft_elements", "tap", "run_dir", "state_dir", "address", "mac", "uid"],
        "the order of the teardown table\n{}",
        dry.shown()
    );
    let human = place.smolvm(&["cleanup", "--dry-run"]).run();
    human.assert_ok();
    for id in targets {
        assert!(human.stdout.contains(id), "{human}");
    }
    assert!(!human.stdout.contains("named-"), "{human}");
    let line = |id: &str| human.stdout.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("no line of {id}\n{human}"));
    assert!(line("vm-runs").contains("running") && line("vm-stopped").contains("stopped"), "{human}");
    assert!(line("hv-killed").contains("stale"), "{human}");
    // All, and other prefixes.
    let all = place.cleanup(&["--dry-run", "--all"]);
    assert_eq!(all.targets().len(), 8, "{}", all.shown());
    assert_eq!((all.data["all"].clone(), all.data["prefix"].clone()), (true.into(), serde_json::Value::Null));
    let other = place.cleanup(&["--dry-run", "--prefix", "named-r"]);
    assert_eq!(other.targets(), ["both-killed", "hv-killed", "mon-killed", "named-runs"], "stale ones are targets under any prefix");
    assert_eq!((tree(place.home()), rows::dump(&place), place.taps("smolvm:")), (before, before_rows, before_taps));
    assert_eq!(place.nft(), before_nft);

    // A sandbox found stale by one command is still a target of the next.
    let first = place.cleanup(&["--force", "--prefix", "vm-m"]);
    first.assert_ok();
    assert_eq!(first.targets(), ["both-killed", "hv-killed", "mon-killed", "vm-made"]);
    assert_eq!(place.ids(), ["named-made", "named-runs", "vm-runs", "vm-stopped"]);

    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((cleaned.targets(), cleaned.deleted()), (vec!["vm-runs", "vm-stopped"], vec!["vm-runs", "vm-stopped"]));
    assert_ends(&pairs["vm-runs"].hypervisor);
    assert_ends(&pairs["vm-runs"].monitor);
    assert!(cleaned.data["summary"]["freed_bytes"].as_u64().unwrap() > 0, "a disk was freed: {}", cleaned.shown());
    let steps = cleaned.steps_of("vm-runs");
    assert!(steps.contains(&("process", "released")) && steps.contains(&("tap", "released")), "{steps:?}");

    // The named ones are what they were.
    assert_eq!(place.ids(), ["named-made", "named-runs"]);
    assert!(pairs["named-runs"].hypervisor.lives() && pairs["named-runs"].monitor.lives());
    place.assert_answers("named-runs");
    assert_eq!(place.taps(&format!("smolvm:{}:", place.install())).len(), 1);

    let last = place.cleanup(&["--all", "--force"]);
    last.assert_ok();
    assert_eq!(last.deleted(), ["named-made", "named-runs"]);
    assert_ends(&pairs["named-runs"].hypervisor);
    oracle.assert_clean();
}

/// A sandbox whose start failed is a target by prefix and with `--all` only.
#[test]
fn a_named_sandbox_whose_start_failed_keeps_its_disk() {
    let place = Place::without_network();
    let oracle = place.oracle();
    for name in ["named", "vm-auto"] {
        place.create(name, &[]);
        // A hypervisor that cannot be one: the start fails by itself and unwinds.
        let ran = place.smolvm(&["start", name]).env("SMOLVM_HYPERVISOR", "/bin/false").run();
        assert_ne!(ran.code(), Some(0), "{ran}");
        // Whether a refused start is recorded is another page's matter; here the row is what counts.
        if place.list()[name]["state"] != "failed" {
            rows::set_state(&place, name, "failed");
        }
    }
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((cleaned.targets(), cleaned.stale()), (vec!["vm-auto"], vec![]));
    assert!(place.path("state/sandboxes/named/data.img").exists());
    assert_eq!(place.list()["named"]["state"], "failed");
    place.cleanup(&["--force", "--all"]).assert_ok();
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}

/// The time to live that `create --ttl` records makes a target of its own.
#[test]
fn a_passed_time_to_live_makes_a_named_sandbox_a_target() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("short", &["--ttl", "1s"]);
    place.create("long", &["--ttl", "1h"]);
    testkit::until("the second passes", support::SOON, || {
        let dry = place.cleanup(&["--dry-run"]);
        (dry.targets() == ["short"]).then_some(())
    });
    place.cleanup(&["--force"]).assert_ok();
    assert_eq!(place.ids(), ["long"]);
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Processes that do not answer when asked are killed all the same, all under one deadline.
#[test]
fn frozen_processes_do_not_hold_cleanup_up() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let pairs = place.boot(&["vm-hypervisor", "vm-monitor"]);
    assert!(pairs["vm-hypervisor"].hypervisor.signal(Signal::STOP));
    assert!(pairs["vm-monitor"].monitor.signal(Signal::STOP));
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["vm-hypervisor", "vm-monitor"]);
    assert!(cleaned.data["summary"]["duration_ms"].as_u64().unwrap() < 20_000, "{}", cleaned.shown());
    oracle.assert_clean();
}

/// What people read: stale ids, a table with state, age and holdings, a line per target, a summary.
#[test]
fn people_read_what_was_found_and_what_was_done() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    place.create("vm-b", &[]);
    for args in [&["cleanup", "--dry-run"][..], &["cleanup", "--force"]] {
        let ran = place.smolvm(args).run();
        ran.assert_ok();
        assert!(ran.stderr.is_empty() && !ran.stdout.contains('\u{1b}'), "no colour and no progress in a pipe\n{ran}");
        let line = |start: &str| ran.stdout.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start:?}\n{ran}"));
        assert!(line("Stale").contains("named, vm-a"), "{ran}");
        for word in ["ID", "STATE", "AGE", "HOLDS"] {
            assert!(line("ID").contains(word), "{ran}");
        }
        assert!(line("named").contains("running (stale)") && line("named").contains("tap svt") && line("named").contains("disk"), "{ran}");
        assert!(line("vm-b").contains("created") && line("vm-b").contains("disk") && !line("vm-b").contains("tap"), "{ran}");
        if args.contains(&"--force") {
            let results: Vec<&str> = ran.stdout.lines().filter_map(|line| line.strip_prefix("deleted  ")).collect();
            assert_eq!(results, ["named", "vm-a", "vm-b"], "{ran}");
            let summary = ran.stdout.lines().last().unwrap();
            for part in ["3 targets", "3 deleted", "0 failed", "freed", " ms"] {
                assert!(summary.contains(part), "{part:?}\n{ran}");
            }
        } else {
            assert_eq!(place.ids().len(), 3);
        }
    }
    oracle.assert_clean();
}
