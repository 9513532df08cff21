//! Templates: what is forked is the machine that was booted, and nothing of it but what all may share.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use serde_json::Value;
use support::{BOOT, Place, assert_ends};

/// How many forks are compared.
const MANY: usize = 50;

/// A cache without templates.
fn place_of_its_own() -> Place {
    let place = Place::without_network();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &[]);
    place
}

/// Where the present run of a sandbox came from, and why.
#[track_caller]
fn origin(place: &Place, id: &str) -> (String, String) {
    let sandbox = place.ok(&["inspect", id])["sandbox"].clone();
    let text = |key: &str| sandbox[key].as_str().unwrap_or_default().to_owned();
    (text("started_from"), text("started_from_reason"))
}

fn templates(place: &Place) -> Vec<Value> {
    place.ok(&["template", "list"])["templates"].as_array().unwrap().clone()
}

fn file(place: &Place, key: &str, name: &str) -> PathBuf {
    place.path("cache/templates").join(key).join(name)
}

#[test]
fn the_first_start_makes_a_template_and_the_next_forks_it() {
    let place = place_of_its_own();
    let oracle = place.oracle();
    assert_eq!(templates(&place), Vec::<Value>::new());
    place.create("one", &[]);
    place.said(&["start", "one"]);
    let made = templates(&place);
    assert_eq!(made.len(), 1, "{made:#?}");
    assert_eq!(
        (made[0]["image"].as_str(), made[0]["disk"].as_str(), made[0]["current"].as_bool()),
        (Some("minimal"), Some("fresh"), Some(true))
    );
    let key = made[0]["key"].as_str().unwrap().to_owned();
    assert_eq!(origin(&place, "one"), ("template".to_owned(), format!("template {key}")));
    assert_eq!(place.ids(), ["one"], "what became the template is gone");
    place.create("two", &[]);
    place.said(&["start", "two"]);
    assert_eq!(origin(&place, "two").0, "template");
    assert_eq!(templates(&place).len(), 1);
    // Another shape of machine is another template; who wants none gets none.
    place.create("large", &["--memory", "160M", "--cpus", "2"]);
    place.said(&["start", "large"]);
    assert_eq!((origin(&place, "large").0.as_str(), templates(&place).len()), ("template", 2));
    assert_eq!(place.in_guest("large", "nproc"), "2\n");
    // An idle guest is woken when it wants to be, not 250 times a second.
    for id in ["two", "large"] {
        assert_eq!(place.in_guest(id, "grep -c 'nohz_mode *: 2' /proc/timer_list"), place.in_guest(id, "nproc"), "{id}");
    }
    place.create("cold", &[]);
    place.said(&["start", "cold", "--cold"]);
    assert_eq!(origin(&place, "cold"), ("cold".to_owned(), "asked for".to_owned()));
    place.ok(&["delete", "one", "two", "large", "cold"]);
    assert_eq!(place.said(&["template", "delete", &key[..8]]), format!("{key}\n"));
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// The test of the whole contract: no byte of randomness, no name and no address in two forks.
#[test]
fn fifty_forks_share_nothing_that_must_be_their_own() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let script = "head -c 32 /dev/urandom | sha256sum; head -c 32 /dev/random | sha256sum; cat /proc/sys/kernel/random/uuid \
                  /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; cat /sys/class/net/eth0/address; \
                  ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*'; date +%s";
    let (mut seen, mut addresses) = (BTreeSet::new(), VecDeque::new());
    for round in 0..MANY {
        let before = now();
        let ran = place.said(&["run", "--net", "tap", "minimal", "--keep", "--name", &format!("fork-{round}"), "--", "sh", "-c", script]);
        let after = now();
        let (own, clock) = ran.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(origin(&place, &format!("fork-{round}")).0, "template");
        let own: Vec<&str> = own.lines().collect();
        assert_eq!(own.len(), 8, "{ran}");
        let (address, own) = own.split_last().unwrap();
        for value in own {
            assert!(seen.insert((*value).to_owned()), "fork {round} shares {value:?} with another");
        }
        assert!(!addresses.contains(&(*address).to_owned()), "fork {round} shares {address:?} with one that lives");
        addresses.push_back((*address).to_owned());
        let clock: u64 = clock.parse().unwrap();
        assert!((before..=after).contains(&clock), "fork {round}: {clock} is not between {before} and {after}");
        // Ten at a time stay. An address is given to another when its sandbox is gone, and to none before.
        if round >= 10 {
            addresses.pop_front();
            place.ok(&["delete", &format!("fork-{}", round - 10)]);
        }
    }
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn what_one_fork_writes_no_other_sees() {
    let place = place_of_its_own();
    let oracle = place.oracle();
    // Small enough to be read as a whole.
    let disk = ["--disk-size", "64M"];
    let key = place.said(&[&["template", "build", "minimal", "--net", "none"], &disk[..]].concat()).trim_end().to_owned();
    let content = || ["memory", "devices", "disk"].map(|name| std::fs::read(file(&place, &key, name)).unwrap());
    let before = content();
    for name in ["one", "two"] {
        place.create(name, &disk);
    }
    place.boot_made(&["one", "two"]);
    assert_eq!(origin(&place, "one").1, format!("template {key}"));
    place.in_guest("one", "head -c 4000000 /dev/zero > /root/big; echo one > /tmp/mine; echo one > /etc/motd; sync");
    assert_eq!(place.in_guest("two", "ls /root /tmp; cat /etc/motd 2>/dev/null || echo none"), "/root:\n\n/tmp:\nnone\n");
    assert_eq!(place.in_guest("two", "cat /proc/sys/vm/stat_interval"), "86400\n", "a fork has more to do than to count");
    assert!(content() == before, "the template has changed");
    // One that is deleted is still there for who was forked from it.
    place.ok(&["template", "delete", "--all"]);
    assert_eq!(
        place.in_guest("two", "head -c 1000000 /dev/zero | wc -c; echo 3 > /proc/sys/vm/drop_caches; busybox | head -c 7"),
        "1000000\nBusyBox"
    );
    place.ok(&["delete", "one", "two"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn a_disk_that_was_mounted_in_a_template_is_sound_and_keeps_what_is_written() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["one"]);
    assert_eq!(origin(&place, "one").0, "template");
    place.in_guest("one", "echo kept > /root/file; mkdir /srv/deep; echo more > /srv/deep/file");
    place.ok(&["stop", "one"]);
    let disk = place.path("state/sandboxes/one/data.img");
    place.cmd("e2fsck").args(&["-fn", disk.to_str().unwrap()]).run().assert_ok();
    // The second start has files of its own to mount, and is forked from another template.
    place.said(&["start", "one"]);
    assert_eq!(origin(&place, "one").0, "template");
    assert_eq!(place.in_guest("one", "cat /root/file /srv/deep/file; echo again >> /root/file"), "kept\nmore\n");
    // Without a chance to sync: the journal has what a machine without power would have.
    place.in_guest("one", "sync");
    let pair = place.pair("one");
    assert!(pair.hypervisor.signal(rustix::process::Signal::KILL));
    assert_ends(&pair.hypervisor);
    place.said(&["start", "one", "--cold"]);
    assert_eq!(place.in_guest("one", "cat /root/file"), "kept\nagain\n");
    place.ok(&["delete", "one"]);
    oracle.assert_clean();
}

#[test]
fn a_template_that_cannot_be_forked_is_replaced_and_the_start_boots() {
    let place = place_of_its_own();
    let oracle = place.oracle();
    let key = place.said(&["template", "build", "minimal", "--net", "none"]).trim_end().to_owned();
    for damage in ["devices", "memory", "disk"] {
        let path = file(&place, &key, damage);
        match damage {
            "disk" => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::write(&path, b"no longer what it was").unwrap(),
        }
        place.create("one", &[]);
        place.said(&["start", "one"]);
        let (from, reason) = origin(&place, "one");
        assert!(from == "cold" && reason.contains("could not be forked"), "{damage}: {from}: {reason}");
        place.assert_answers("one");
        assert_eq!(templates(&place), Vec::<Value>::new(), "{damage}: it would be tried again and again");
        place.ok(&["delete", "one"]);
        assert_eq!(place.said(&["template", "build", "minimal", "--net", "none"]).trim_end(), key);
    }
    // Where none can be made, the reason is told and the sandbox runs all the same.
    place.ok(&["template", "delete", "--all"]);
    let templates = place.path("cache/templates");
    std::fs::remove_dir(&templates).unwrap();
    std::fs::write(&templates, "in the way").unwrap();
    place.create("one", &[]);
    place.said(&["start", "one"]);
    let (from, reason) = origin(&place, "one");
    assert!(from == "cold" && reason.starts_with("no template could be made: "), "{from}: {reason}");
    std::fs::remove_file(&templates).unwrap();
    place.ok(&["delete", "one"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn one_of_many_that_come_at_once_makes_the_template() {
    let place = place_of_its_own();
    let oracle = place.oracle();
    let names = ["a", "b", "c", "d"];
    for name in names {
        place.create(name, &[]);
    }
    let running: Vec<_> = names.iter().map(|name| place.smolvm(&["start", name]).timeout(BOOT).spawn()).collect();
    for start in running {
        start.wait().assert_ok();
    }
    assert_eq!(templates(&place).len(), 1);
    for name in names {
        assert_eq!(origin(&place, name).0, "template", "{name}");
    }
    place.cleanup(&["--all", "--force"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// The kernel allows that only where nothing of the first one is covered.
#[test]
fn whoever_has_no_rights_in_a_fork_mounts_a_proc_of_their_own() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["one"]);
    assert_eq!(place.in_guest("one", "unshare -Urpf --mount-proc true && echo mounted"), "mounted\n");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

#[test]
fn what_forks_share_is_not_their_own() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["one", "two"]);
    let stats = |id: &str| {
        let shown = place.ok(&["stats", id])["sandboxes"].clone();
        assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown:#}");
        let bytes = |key: &str| shown[0][key].as_u64().unwrap();
        (bytes("own_bytes"), bytes("shared_bytes"), bytes("disk_used_bytes"))
    };
    let before = stats("two");
    assert!(before.1 > 20 << 20 && before.2 > 0, "a fork has its template mapped: {before:?}");
    // What a guest writes becomes its own, and no other's.
    place.in_guest("one", "head -c 30000000 /dev/zero > /dev/shm/own");
    let (one, after) = (stats("one"), stats("two"));
    assert!(one.0 > after.0 + (25 << 20), "{one:?} {after:?}");
    // Both are what the kernel says.
    let pair = place.pair("two");
    let anonymous: u64 = [pair.hypervisor.pid, pair.monitor.pid]
        .iter()
        .map(|pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap().to_owned();
            line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
        })
        .sum();
    assert!(anonymous.abs_diff(stats("two").0) < 4 << 20, "{anonymous} and {:?}", stats("two"));
    place.ok(&["stop", "two"]);
    assert_eq!(place.ok(&["stats"])["sandboxes"].as_array().map(Vec::len), Some(1));
    assert_eq!(place.envelope(&["stats", "two"])["error"]["code"], "invalid_state");
    assert_eq!(place.envelope(&["stats", "nobody"])["error"]["code"], "not_found");
    place.ok(&["delete", "one", "two"]);
    oracle.assert_clean();
}

#[test]
fn setup_makes_the_template_of_an_image() {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &[]);
    let oracle = place.oracle();
    let steps = place.ok(&["setup", "--image", "minimal", "--no-install"])["steps"].clone();
    let last = steps.as_array().unwrap().last().unwrap().clone();
    assert_eq!((last["name"].as_str(), last["outcome"].as_str()), (Some("template"), Some("done")), "{steps:#}");
    let again = place.ok(&["setup", "--image", "minimal", "--no-install"])["steps"].clone();
    assert_eq!(again.as_array().unwrap().last().unwrap()["outcome"], "already", "{again:#}");
    place.ok(&["create", "--image", "minimal", "--name", "one"]);
    place.said(&["start", "one"]);
    assert!(last["detail"].as_str().unwrap().ends_with(origin(&place, "one").1.trim_start_matches("template ")), "{steps:#}");
    place.ok(&["delete", "one"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn keys_that_mean_nothing_delete_nothing() {
    let place = place_of_its_own();
    let key = place.said(&["template", "build", "minimal", "--net", "none"]).trim_end().to_owned();
    for (word, code) in [("zz", "not_found"), ("", "not_found"), ("../..", "not_found"), (&"a".repeat(4000), "not_found")] {
        let failed = place.envelope(&["template", "delete", word]);
        assert_eq!(failed["error"]["code"], code, "{word}: {failed:#}");
    }
    assert_eq!(place.envelope(&["template", "delete"])["error"]["code"], "usage_error");
    assert_eq!(place.envelope(&["template", "build", "no-such-image"])["error"]["code"], "not_found");
    assert_eq!(templates(&place)[0]["key"].as_str(), Some(key.as_str()));
    let again = place.ok(&["template", "build", "minimal", "--net", "none"]);
    assert_eq!((again["made"].as_bool(), again["template"]["key"].as_str()), (Some(false), Some(key.as_str())));
    place.ok(&["template", "delete", &key]);
}
