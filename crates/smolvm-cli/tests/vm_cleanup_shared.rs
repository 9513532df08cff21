//! What all sandboxes share on the host: the filter table and forwarding on the uplink. It goes with
//! the last sandbox, back to what it was, unless somebody else has a say in it.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use support::{Cleaned, Place};

fn forwarding(place: &Place) -> String {
    read(place, "conf/up0/forwarding")
}

fn read(place: &Place, what: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/{what}");
    place.inside(|| std::fs::read_to_string(path).unwrap()).trim().to_owned()
}

fn set(place: &Place, what: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{what}");
    place.inside(|| std::fs::write(path, value).unwrap());
}

#[test]
fn the_last_sandbox_takes_the_shared_parts_with_it() {
    let place = Place::with_network();
    let oracle = place.oracle();
    assert_eq!(forwarding(&place), "0", "the private host is no router");
    place.seed(&["vm-a", "vm-b", "named"]);
    assert_eq!(forwarding(&place), "1", "guests reach the world");
    assert!(place.nft().contains(&place.table()));
    place.cleanup(&["--force", "--prefix", "nobody"]).assert_ok();
    // All three were stale, so they are gone together with what they shared.
    assert!(place.ids().is_empty());
    assert_eq!(forwarding(&place), "0");
    assert!(!place.nft().contains("smolvm"), "{}", place.nft());
    oracle.assert_clean();

    // While one runs, they stay; a sandbox that was only made holds nothing on the host.
    place.create("made", &[]);
    oracle_has_no_network_change(&place);
    let pair = place.boot(&["runs"])["runs"].clone();
    place.seed(&["vm-c"]);
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((forwarding(&place).as_str(), place.nft().contains(&place.table())), ("1", true), "{}", cleaned.shown());
    assert!(pair.hypervisor.lives());
    place.assert_answers("runs");
    // `stop` of the last running one, then `cleanup` of what is left: the host is as before.
    let last = place.cleanup(&["--force", "--all"]);
    last.assert_ok();
    assert!(last.shown().contains("forwarding") && last.shown().contains(&place.table()), "the report says which: {}", last.shown());
    oracle.assert_clean();
}

fn oracle_has_no_network_change(place: &Place) {
    assert!(place.taps("smolvm:").is_empty() && !place.nft().contains("smolvm") && forwarding(place) == "0");
}

/// Replacing chains under running guests is harmless, and slow: `nft` waits until the kernel has forgotten the old ones.
#[test]
fn chains_are_made_again_where_somebody_changed_them_and_nowhere_else() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let table = place.table();
    let nft =
        |args: &[&str]| place.inside(|| String::from_utf8(std::process::Command::new("nft").args(args).output().unwrap().stdout).unwrap());
    // With the kernel's numbers, which a rule that was made again has not.
    let rules = || nft(&["-a", "list", "chain", "inet", &table, "guest_to_host"]);
    let plain =
        |rules: &str| rules.lines().filter_map(|line| line.split(" # ").next()).map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    place.seed(&["vm-a"]);
    let made = rules();
    assert!(plain(&made).contains(&"drop".to_owned()), "{made}");
    place.seed(&["vm-b"]);
    assert_eq!(rules(), made);
    let change = |verb: &str, kind: &str, rule: &[&str]| nft(&[&[verb, kind, "inet", &table, "guest_to_host"], rule].concat());
    let empty = || change("flush", "chain", &[]);
    let open = |verb: &str| change(verb, "rule", &["accept"]);
    let as_many = || std::iter::once(empty()).chain((0..plain(&made).len() - 4).map(|_| open("add"))).collect::<String>();
    let changes: [(&str, &dyn Fn() -> String); 3] = [("vm-c", &empty), ("vm-d", &|| open("insert")), ("vm-f", &as_many)];
    for (name, change) in changes {
        change();
        assert_ne!(plain(&rules()), plain(&made), "{name}");
        place.seed(&[name]);
        assert_eq!(plain(&rules()), plain(&made), "{name}");
    }
    // Gone altogether, with all that stood in it.
    nft(&["delete", "table", "inet", &table]);
    place.seed(&["vm-e"]);
    assert_eq!(plain(&rules()), plain(&made));
    assert!(place.nft().contains(":vm-e"), "{}", place.nft());
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// The report for people names what was put back.
#[test]
fn people_are_told_what_was_put_back() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    let human = place.smolvm(&["cleanup", "--force"]).run();
    human.assert_ok();
    assert!(human.stdout.contains("forwarding") && human.stdout.contains("up0") && human.stdout.contains(&place.table()), "{human}");
    assert!(human.stdout.contains("vm-a") && human.stdout.contains("1 deleted") && human.stdout.contains("freed"), "{human}");
    oracle.assert_clean();
}

/// A switch that somebody else has thrown since is theirs.
#[test]
fn what_somebody_else_changed_since_is_left_and_told() {
    let place = Place::with_network();
    // Forwarding was on before: it stays on.
    set(&place, "conf/up0/forwarding", "1");
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    place.cleanup(&["--force"]).assert_ok();
    assert_eq!(forwarding(&place), "1", "it was on before");
    oracle.assert_clean();
    set(&place, "conf/up0/forwarding", "0");

    // Somebody switched it off meanwhile: it stays off, and nobody switches anything on.
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    set(&place, "conf/up0/forwarding", "0");
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();

    // Somebody made the whole host a router meanwhile: that stands, and the report says so.
    place.seed(&["vm-a"]);
    set(&place, "ip_forward", "1");
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((forwarding(&place).as_str(), read(&place, "ip_forward").as_str()), ("1", "1"), "{}", cleaned.shown());
    let told = cleaned.shown().contains("kept");
    assert!(told, "the report says which is left: {}", cleaned.shown());
    assert!(!place.nft().contains("smolvm"));
}

/// What another installation still uses is counted and stays.
#[test]
fn two_installations_share_a_host() {
    let place = Place::with_network();
    let second = place.second_home();
    let oracle = place.oracle();
    let cleanup_second = || {
        let ran = place.smolvm(&["cleanup", "--all", "--force", "--json"]).env("SMOLVM_HOME", &second).run();
        Cleaned::of(&ran).assert_ok().clone()
    };
    let other = support::install_of(&second);
    assert_ne!(other, place.install());
    // Whoever came first goes first; then the other way round.
    for first_goes_first in [true, false] {
        place.seed(&["vm-a"]);
        place.seed_in(&second, &["vm-a", "vm-b"]);
        assert_eq!(place.taps("smolvm:").len(), 3, "the same name in two installations is two sandboxes");
        if first_goes_first {
            let cleaned = place.cleanup(&["--all", "--force"]);
            cleaned.assert_ok();
            assert_eq!(cleaned.deleted(), ["vm-a"]);
            assert_eq!(place.taps(&format!("smolvm:{other}:")).len(), 2, "{}", cleaned.shown());
            assert!(place.nft().contains(&format!("smolvm_{other}")) && !place.nft().contains(&place.table()));
            assert_eq!(forwarding(&place), "1", "the second still needs it: {}", cleaned.shown());
            assert!(cleaned.shown().contains("another installation"), "{}", cleaned.shown());
            cleanup_second();
        } else {
            let cleaned = cleanup_second();
            assert_eq!(cleaned.deleted(), ["vm-a", "vm-b"]);
            assert_eq!((forwarding(&place).as_str(), place.taps(&place.mark("vm-a")).len()), ("1", 1), "{}", cleaned.shown());
            place.cleanup(&["--all", "--force"]).assert_ok();
        }
        assert_eq!(forwarding(&place), "0", "the last one puts it back");
        oracle.assert_clean();
    }
}

/// The shared parts outlive a lost database too, and are found by their mark.
#[test]
fn shared_parts_without_a_record_go_with_all() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named"]);
    std::fs::remove_dir_all(place.path("state")).unwrap();
    std::fs::remove_dir_all(place.path("run")).unwrap();
    let listed = place.cleanup(&["--dry-run"]);
    assert!(listed.list("orphans").iter().any(|orphan| orphan["key"] == place.table().as_str()), "{}", listed.shown());
    place.cleanup(&["--force"]).assert_ok();
    assert!(place.nft().contains(&place.table()), "no prefix matches it");
    place.cleanup(&["--force", "--all"]).assert_ok();
    assert_eq!(forwarding(&place), "0");
    oracle.assert_clean();
}

/// What an administrator has taken away already is gone, and the rest goes too.
#[test]
fn what_somebody_else_removed_is_already_gone() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a", "vm-b"]);
    place.host().run("nft", &["flush", "ruleset"]).unwrap();
    let tap = place.taps(&place.mark("vm-a")).remove(0);
    place.host().ip(&format!("link delete {tap}")).unwrap();
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["vm-a", "vm-b"]);
    for step in [("nft_elements", "already_gone"), ("tap", "already_gone"), ("state_dir", "released")] {
        assert!(cleaned.steps_of("vm-a").contains(&step), "{step:?}: {}", cleaned.shown());
    }
    assert_eq!(forwarding(&place), "0");
    oracle.assert_clean();
}

/// The shared parts cannot be had for a while: what was deleted is told all the same, and the next run finishes.
#[test]
fn shared_parts_that_are_busy_do_not_swallow_the_report() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["vm-a"]);
    let file = std::fs::File::create(place.path("state/locks/.network.lock")).unwrap();
    file.lock().unwrap();
    let cleaned = place.cleanup(&["--force"]);
    assert_eq!(cleaned.code, 1, "{}", cleaned.shown());
    drop(file);
    let row = place.ids().contains(&"vm-a".to_owned());
    let finished = place.cleanup(&["--force"]);
    finished.assert_ok();
    oracle.assert_clean();
    assert!(!cleaned.data.is_null(), "what was done is not told: {}", cleaned.shown());
    assert_eq!(cleaned.deleted().contains(&"vm-a"), !row, "{}", cleaned.shown());
    assert!(cleaned.failed().iter().any(|(_, code)| *code == "busy"), "{}", cleaned.shown());
}
