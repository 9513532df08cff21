//! The pool: what waits is taken by one, is theirs from then on, and goes like everything else.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use support::{BOOT, Place};

const POOL: [&str; 4] = ["--set", "pool.minimal=2", "--set", "sandbox.net=none"];

/// With two of `minimal` in the pool.
fn with_pool<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&POOL[..], words].concat()
}

fn fill(place: &Place) -> Vec<String> {
    let ran = place.smolvm(&with_pool(&["pool", "fill"])).timeout(BOOT).run();
    ran.assert_ok();
    ran.stdout.lines().map(str::to_owned).collect()
}

fn waiting(place: &Place) -> BTreeSet<String> {
    place.said(&with_pool(&["pool", "list", "--quiet"])).lines().map(str::to_owned).collect()
}

/// Whoever fills the pool behind a command is at work for a moment.
fn until_full(place: &Place) -> BTreeSet<String> {
    testkit::until("a pool that is full again", BOOT, || Some(waiting(place)).filter(|ids| ids.len() == 2))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn what_waits_is_taken_under_its_own_name_with_what_was_asked_for_and_replaced() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let made = fill(&place);
    assert_eq!(made.len(), 2);
    assert_eq!(fill(&place), [""; 0], "it is full");
    assert!(made.iter().all(|id| place.list()[id]["state"] == "pooled"));
    let asked = ["create", "--start", "--image", "minimal", "-e", "WHO=me", "-l", "team=x", "--ttl", "1h"];
    let sandbox = place.ok(&with_pool(&asked))["sandbox"].clone();
    let id = sandbox["id"].as_str().unwrap();
    assert_eq!(id, made[0], "the oldest");
    assert_eq!((&sandbox["state"], &sandbox["labels"]["team"]), (&"running".into(), &"x".into()), "{sandbox:#}");
    assert!(sandbox["expires_at"].is_string(), "{sandbox:#}");
    assert!(sandbox["started_from_reason"].as_str().unwrap().ends_with("from the pool"), "{sandbox:#}");
    let (earliest, said, latest) = (now(), place.in_guest(id, "hostname; echo $WHO; cat /proc/sys/kernel/random/uuid; date +%s"), now());
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], [id, "me"]);
    let shown: u64 = lines[3].parse().unwrap();
    assert!((earliest..=latest).contains(&shown), "{shown} is not between {earliest} and {latest}");
    let full = until_full(&place);
    assert!(full.contains(&made[1]) && !full.contains(id), "{full:?}");
    // The other one has a seed, a machine and a boot of its own.
    let other = place.ok(&with_pool(&["create", "--start", "--image", "minimal"]))["sandbox"]["id"].as_str().unwrap().to_owned();
    assert_eq!(other, made[1]);
    let marks = "cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id /etc/machine-id; head -c 16 /dev/urandom | od -A n -t x1";
    let (one, two) = (place.in_guest(id, marks), place.in_guest(&other, marks));
    assert!(one.lines().zip(two.lines()).all(|(a, b)| a != b), "{one}{two}");
    until_full(&place);
    // The default of cleanup: what nobody named goes, what waits too.
    let cleaned = place.cleanup(&["--force"]);
    assert_eq!((cleaned.failed(), place.ids()), (Vec::new(), Vec::new()));
    oracle.assert_clean();
}

#[test]
fn many_that_come_at_once_share_nothing_and_all_get_one() {
    let place = Place::without_network();
    let oracle = place.oracle();
    fill(&place);
    let runs: Vec<_> = (0..6).map(|_| place.smolvm(&with_pool(&["run", "minimal", "--", "hostname"])).timeout(BOOT).spawn()).collect();
    let names: BTreeSet<String> = runs
        .into_iter()
        .map(|run| {
            let ran = run.wait();
            ran.assert_ok();
            ran.stdout
        })
        .collect();
    assert_eq!(names.len(), 6, "{names:?}");
    until_full(&place);
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

#[test]
fn only_who_asks_for_just_that_gets_one() {
    let place = Place::without_network();
    // What is pruned here is its own.
    place.own_cache(&["kernels", "images", "disks"], &["initramfs"]);
    let oracle = place.oracle();
    let made: BTreeSet<String> = fill(&place).into_iter().collect();
    for words in [
        &["run", "minimal", "--name", "mine", "--", "true"][..],
        &["run", "minimal", "--memory", "160M", "--", "true"],
        &["run", "minimal", "--cold", "--", "true"],
        &["create", "--image", "minimal"],
    ] {
        place.smolvm(&with_pool(words)).timeout(BOOT).run().assert_ok();
        assert_eq!(waiting(&place), made, "{words:?}");
    }
    // Nobody's yet: it is left alone but by who removes it.
    let id = made.first().unwrap();
    for words in
        [&["exec", id, "--", "true"][..], &["resume", id], &["pause", id], &["start", id], &["fork", id], &["snapshot", "create", id]]
    {
        let ran = place.smolvm(words).run();
        assert!(matches!(ran.code(), Some(1 | 125)), "{words:?}: {ran}");
        assert!(ran.stderr.contains("pool"), "{words:?}: {ran}");
    }
    // Whoever was filling behind the runs above has nothing to do, and ends before this.
    assert_eq!(fill(&place), [""; 0]);
    assert_eq!(waiting(&place), made);
    place.ok(&["delete", id]);
    assert_eq!(waiting(&place).len(), 1);
    // Fewer are wanted, and then none; `df` and `prune` know of it.
    assert_eq!(place.ok(&["df"])["pooled"], 1);
    let dry = place.ok(&["prune", "--all", "--keep", "9", "--dry-run"]);
    assert!(dry["removed"].as_array().unwrap().iter().any(|one| one["part"] == "pool"), "{dry:#}");
    assert_eq!(place.ok(&["prune"])["removed"].as_array().unwrap().iter().filter(|one| one["part"] == "pool").count(), 0);
    assert_eq!(place.ok(&["pool", "fill"])["removed"].as_array().unwrap().len(), 1);
    fill(&place);
    let data = place.ok(&["prune", "--all", "--keep", "9"]);
    assert_eq!(data["removed"].as_array().unwrap().iter().filter(|one| one["part"] == "pool").count(), 2, "{data:#}");
    place.cleanup(&["--all", "--force"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn a_pool_that_cannot_be_filled_says_why_and_keeps_nobody_from_running() {
    let place = Place::without_network();
    let oracle = place.oracle();
    // More memory than any host has: `run` itself asks for less.
    let huge = ["--set", "pool.minimal=1", "--set", "sandbox.net=none", "--set", "sandbox.memory=1T"];
    let run = [&huge[..], &["run", "minimal", "--memory", "128M", "--", "echo", "ran"]].concat();
    let ran = place.smolvm(&run).timeout(BOOT).run();
    ran.assert_ok();
    assert_eq!(ran.stdout, "ran\n");
    let failure = testkit::until("a word of why", BOOT, || place.ok(&["pool", "list"])["failure"].as_str().map(str::to_owned));
    assert!(failure.contains("memory"), "{failure}");
    place.smolvm(&[&huge[..], &["pool", "fill"]].concat()).run().assert_code(1);
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

#[test]
fn one_that_has_died_is_not_taken_and_costs_a_fork() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let made = fill(&place);
    for id in &made {
        place.pair(id).hypervisor.signal(Signal::KILL);
        testkit::until("a sandbox that is stale", BOOT, || (place.list()[id]["stale"] == true).then_some(()));
    }
    let ran = place.smolvm(&with_pool(&["run", "minimal", "--", "hostname"])).timeout(BOOT).run();
    ran.assert_ok();
    assert!(!made.contains(&ran.stdout.trim_end().to_owned()), "{ran}");
    assert!(until_full(&place).is_disjoint(&made.iter().cloned().collect()));
    assert_eq!(place.cleanup(&["--force"]).failed(), []);
    oracle.assert_clean();
}
