//! `fork`: a copy goes on where its source is, with its memory and its files, and with nothing that is the source's own.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use support::{BOOT, DRAWING, Place, SOON, assert_ends, assert_nothing_shared, until_drawn};
use testkit::Cmd;
use testkit::process::Process;

/// What a clock that is right by 100 ms may show at the least, and at the most.
fn now() -> (u64, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let off = Duration::from_millis(100);
    (now.checked_sub(off).unwrap().as_secs(), (now + off).as_secs())
}

fn sandbox(place: &Place, id: &str) -> Value {
    place.ok(&["inspect", id])["sandbox"].clone()
}

/// A heart that beats in the background, a file on the disk, and four megabytes that are only in memory.
#[track_caller]
fn furnish(place: &Place, id: &str) -> String {
    place.in_guest(id, "echo kept > /root/file; while :; do date +%s >> /dev/shm/beats; sleep 1; done > /dev/null 2>&1 &");
    place.in_guest(
        id,
        "cat /proc/sys/kernel/random/boot_id > /dev/shm/boot_id; head -c 4000000 /dev/urandom > /dev/shm/blob; sha256sum /dev/shm/blob",
    )
}

/// How many commands there are whose last word is `waiter`.
const WAITERS: &str = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $p 2> /dev/null; echo; done | grep -c 'waite[r] $' || true";

const OWN: &str = "hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; \
                   head -c 32 /dev/urandom | sha256sum; head -c 32 /dev/random | sha256sum; cat /sys/class/net/eth0/address; \
                   ip -o -4 addr show eth0 | grep -o 'inet [0-9.]*'; grep -c . /etc/hosts; date +%s";

#[test]
fn copies_go_on_with_all_of_it_and_share_nothing_that_tells_them_apart() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    let blob = furnish(&place, "src");
    let script = "until [ -e /root/go ]; do sleep 0.1; done; echo still here";
    let waiting = place.smolvm(&["exec", "src", "--", "sh", "-c", script, "waiter"]).timeout(BOOT).spawn();
    testkit::until("a command that somebody waits for", SOON, || (place.in_guest("src", WAITERS) == "1\n").then_some(()));
    let data = place.ok(&["fork", "src", "--count", "3", "--name", "copy"]);
    let ids: Vec<&str> = data["sandboxes"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["copy-1", "copy-2", "copy-3"], "{data:#}");
    assert!(data["halted_ms"].as_f64().unwrap() > 0.0 && data["own_bytes"].as_u64().unwrap() > 4_000_000, "{data:#}");
    let mut seen = BTreeSet::new();
    for id in ["src", "copy-1", "copy-2", "copy-3"] {
        assert_eq!(place.in_guest(id, "sha256sum /dev/shm/blob; cat /root/file"), format!("{blob}kept\n"), "{id}");
        let (before, _) = now();
        let all = place.in_guest(id, OWN);
        let (_, after) = now();
        let own: Vec<&str> = all.lines().collect();
        let [name, written @ .., lines, clock] = own.as_slice() else { panic!("{all}") };
        assert_eq!((*name, written[0], *lines), (id, id, "3"), "{all}");
        for value in &written[1..] {
            assert!(seen.insert((*value).to_owned()), "{id} shares {value:?} with another");
        }
        let clock: u64 = clock.parse().unwrap();
        assert!((before..=after).contains(&clock), "{id}: {clock} is not between {before} and {after}");
        let (beats, gateway) = ("wc -l < /dev/shm/beats", "ping -c 1 -W 5 $(ip route | cut -d ' ' -f 3) > /dev/null && echo reached");
        let first: u32 = place.in_guest(id, beats).trim().parse().unwrap();
        testkit::until(&format!("the heart of {id}"), SOON, || {
            (place.in_guest(id, beats).trim().parse::<u32>().unwrap() > first).then_some(())
        });
        assert_eq!(place.in_guest(id, gateway), "reached\n", "{id}");
    }
    // The command that somebody waits for is the source's alone, and knows nothing of it.
    assert_eq!([place.in_guest("src", WAITERS), place.in_guest("copy-1", WAITERS)], ["1\n", "0\n"]);
    place.in_guest("src", "touch /root/go");
    assert_eq!(waiting.wait().stdout, "still here\n");
    let copy = sandbox(&place, "copy-1");
    assert_eq!((copy["started_from"].as_str(), copy["started_from_reason"].as_str()), (Some("fork"), Some("a copy of src")));
    place.in_guest("copy-1", "echo changed > /root/file; echo x > /dev/shm/blob");
    for id in ["src", "copy-2"] {
        assert_eq!(place.in_guest(id, "sha256sum /dev/shm/blob; cat /root/file"), format!("{blob}kept\n"), "{id}");
    }
    // A copy lives without what it is a copy of, is copied itself, and keeps its files when it starts anew.
    place.ok(&["delete", "src", "copy-2"]);
    place.said(&["fork", "copy-3", "--name", "deep"]);
    assert_eq!(place.in_guest("deep", "sha256sum /dev/shm/blob; cat /root/file /etc/hostname"), format!("{blob}kept\ndeep\n"));
    place.ok(&["stop", "copy-1"]);
    place.said(&["start", "copy-1"]);
    assert_eq!(place.in_guest("copy-1", "cat /root/file /etc/hostname; ls /dev/shm"), "changed\ncopy-1\n");
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// What says who a guest is may have been changed, taken away or led elsewhere: its copies say who they are all the same.
#[test]
fn copies_of_a_guest_that_changed_who_it_says_it_is_are_told_apart_too() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.boot(&["a-source-with-a-long-name", "other", "mounts", "one"]);
    // Before anything is changed: a shorter name leaves nothing of the longer one.
    place.said(&["fork", "a-source-with-a-long-name", "--name", "b"]);
    assert_eq!(place.in_guest("b", "cat /etc/hostname; grep -c source /etc/hosts || true"), "b\n0\n");
    let change = "echo '10.9.9.9 db' >> /etc/hosts; rm /etc/hostname /run/boot_id; ln -sf /root/elsewhere /etc/machine-id; ln -s /etc/passwd /run/boot_id";
    place.in_guest("b", change);
    place.in_guest("other", "mv /etc /etc.old; mkdir /etc; cp /etc.old/passwd /etc.old/group /etc; ip link set eth0 down");
    // Nothing of these is on its disk.
    place.in_guest(
        "mounts",
        "cp -r /etc /tmp/etc && mount --bind /tmp/etc /etc; umount /proc; mount -t proc proc /proc; cat /proc/sys/kernel/random/boot_id",
    );
    place
        .in_guest("one", "cp /etc/hostname /tmp/h; mount --bind /tmp/h /etc/hostname; mount --bind /tmp/h /proc/sys/kernel/random/boot_id");
    let (mut ids, mut boots, mut macs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for source in ["b", "other", "mounts", "one"] {
        let names = [format!("{source}-1"), format!("{source}-2")];
        place.ok(&["fork", source, "--count", "2", "--name", source]);
        for id in &names {
            let who = "hostname; cat /etc/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address";
            let all = place.in_guest(id, who);
            let [name, file, machine, boot, mac] = all.lines().collect::<Vec<_>>()[..] else { panic!("{all}") };
            assert_eq!((name, file, machine.len()), (id.as_str(), id.as_str(), 32), "{all}");
            assert!(ids.insert(machine.to_owned()) && boots.insert(boot.to_owned()) && macs.insert(mac.to_owned()), "{all}");
            let hosts = place.in_guest(id, "cat /etc/hosts");
            let knows = |host: &str| hosts.lines().any(|line| line.split_whitespace().skip(1).any(|name| name == host));
            assert_eq!((knows(id), knows(source), knows("db")), (true, false, source == "b"), "{id}: {hosts}");
            assert_eq!(place.in_guest(id, "ping -c 1 -W 5 $(ip route | cut -d ' ' -f 3) > /dev/null && echo reached"), "reached\n", "{id}");
        }
    }
    assert_eq!(place.in_guest("b-1", "grep -c nologin /etc/passwd || true"), place.in_guest("b", "grep -c nologin /etc/passwd || true"));
    // A copy of such a copy, which finds all of it changed; and of one in whose copy the boot id is what was laid there.
    for (source, deep) in [("other-2", "deep"), ("b-2", "deeper"), ("mounts-1", "deepest")] {
        place.said(&["fork", source, "--name", deep]);
        assert_eq!(place.in_guest(deep, "hostname; cat /etc/hostname"), format!("{deep}\n{deep}\n"));
        assert!(boots.insert(place.in_guest(deep, "cat /proc/sys/kernel/random/boot_id").trim().to_owned()), "{deep}");
    }
    // One that took away what lay there, in a copy.
    place.in_guest("deeper", "umount /proc/sys/kernel/random/boot_id; cat /proc/sys/kernel/random/boot_id");
    place.ok(&["fork", "deeper", "--count", "2", "--name", "bare"]);
    for id in ["bare-1", "bare-2"] {
        assert!(boots.insert(place.in_guest(id, "cat /proc/sys/kernel/random/boot_id").trim().to_owned()), "{id}");
    }
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// Whoever runs while a copy is not yet itself draws what its twins draw: nobody does, before seed, name and clock are new.
#[test]
fn nothing_runs_in_a_copy_before_it_is_another_guest() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("src", &["--cpus", "2", "--memory", "256M"]);
    place.boot_made(&["src"]);
    place.in_guest("src", DRAWING);
    until_drawn(&place, "src", 100);
    let (told, _) = now();
    place.ok(&["fork", "src", "--count", "2", "--name", "copy"]);
    assert_nothing_shared(&place, "src", &["copy-1", "copy-2"], told);
    // Nobody is left in another group than the one it was in, whichever of them it is.
    for id in ["src", "copy-1", "copy-2"] {
        let groups = "mkdir -p /tmp/groups && mount -t cgroup2 none /tmp/groups && ls -d /tmp/groups/*/ 2> /dev/null; cat /proc/[0-9]*/cgroup | sort -u";
        assert_eq!(place.in_guest(id, groups), "0::/\n", "{id}");
    }
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

/// What a guest's own init had put into groups stands still, too; and what it had stopped itself is not set going.
#[test]
fn groups_and_stopped_processes_of_the_guest_are_as_they_were() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    let groups =
        "mkdir /tmp/groups && mount -t cgroup2 none /tmp/groups && cd /tmp/groups && mkdir -p own/below held && echo 1 > held/cgroup.freeze
        (echo 0 > own/below/cgroup.procs; while :; do echo x >> /dev/shm/own; sleep 0.1; done) > /dev/null 2>&1 &
        (echo 0 > held/cgroup.procs; while :; do echo x >> /dev/shm/held; sleep 0.1; done) > /dev/null 2>&1 &
        sleep 100000 > /dev/null 2>&1 & echo $! > /dev/shm/stopped; kill -STOP $!";
    place.in_guest("src", groups);
    let seen = "cat /tmp/groups/own/cgroup.freeze /tmp/groups/held/cgroup.freeze; cut -d ' ' -f 3 /proc/$(cat /dev/shm/stopped)/stat; \
                ls -d /tmp/groups/*/; ls /dev/shm/held 2>&1; true";
    let wanted = place.in_guest("src", seen);
    place.said(&["fork", "src", "--name", "copy"]);
    for id in ["src", "copy"] {
        assert_eq!(place.in_guest(id, seen), wanted, "{id}");
        let beats = || place.in_guest(id, "wc -l < /dev/shm/own").trim().parse::<u32>().unwrap();
        let first = beats();
        testkit::until(&format!("what is in a group of {id}"), SOON, || (beats() > first).then_some(()));
    }
    assert!(wanted.starts_with("0\n1\nT\n"), "{wanted}");
    place.ok(&["delete", "src", "copy"]);
    oracle.assert_clean();
}

/// Whoever stops them comes before them.
#[test]
fn a_guest_whose_processor_is_never_idle_is_copied() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    place.in_guest("src", "for i in $(seq 16); do (while :; do :; done) > /dev/null 2>&1 & done");
    place.ok(&["fork", "src", "--name", "copy"]);
    let busy = "grep -c '^[0-9]* (sh) R' /proc/[0-9]*/stat 2> /dev/null | grep -c ':1'";
    for id in ["src", "copy"] {
        assert!(place.in_guest(id, busy).trim().parse::<u32>().unwrap() >= 16, "{id}");
    }
    place.ok(&["delete", "src", "copy"]);
    oracle.assert_clean();
}

/// Ever new processes, so that there is always one more to be stopped: either way nobody waits for ever or stays behind.
#[test]
fn a_guest_that_forks_without_end_is_copied_or_refused_and_runs_on() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("src", &["--cpus", "2", "--memory", "256M"]);
    place.boot_made(&["src"]);
    place.in_guest("src", "echo 'echo $$ > /dev/shm/last; sh /dev/shm/again > /dev/null 2>&1 &' > /dev/shm/again; for i in 1 2 3 4 5 6 7 8; do sh /dev/shm/again; done");
    let answer = place.envelope(&["fork", "src", "--name", "copy"]);
    let code = answer["error"]["code"].as_str().unwrap_or("ok");
    assert!(code == "ok" || code == "guest_error", "{answer:#}");
    for id in place.ids() {
        let last = || place.in_guest(&id, "cat /dev/shm/last");
        let first = last();
        testkit::until(&format!("another process in {id}"), SOON, || (last() != first).then_some(()));
    }
    assert!(place.ids().contains(&"src".to_owned()));
    place.cleanup(&["--all", "--force"]);
    oracle.assert_clean();
}

#[test]
fn machines_with_two_processors_that_booted_and_paused_ones_are_copied_too() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("smp", &["--cpus", "2", "--memory", "256M"]);
    place.said(&["start", "smp", "--cold"]);
    let blob = furnish(&place, "smp");
    place.ok(&["pause", "smp"]);
    place.said(&["fork", "smp", "--name", "copy"]);
    assert_eq!(sandbox(&place, "smp")["state"], "paused", "it is what it was");
    assert_eq!(place.in_guest("copy", "sha256sum /dev/shm/blob; nproc"), format!("{blob}2\n"));
    place.ok(&["resume", "smp"]);
    assert_eq!(place.in_guest("smp", "sha256sum /dev/shm/blob"), blob);
    place.ok(&["delete", "smp", "copy"]);
    oracle.assert_clean();
}

#[test]
fn what_cannot_be_copied_is_refused_and_changes_nothing() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let code = |args: &[&str]| place.envelope(args)["error"]["code"].as_str().unwrap_or("ok").to_owned();
    assert_eq!(code(&["fork", "nobody"]), "not_found");
    place.create("made", &[]);
    assert_eq!(code(&["fork", "made"]), "invalid_state");
    place.boot(&["src"]);
    for (count, name, wanted) in [("0", "x", "usage_error"), ("1001", "x", "usage_error"), ("2", &*"a".repeat(63), "usage_error")] {
        assert_eq!(code(&["fork", "src", "--count", count, "--name", name]), wanted, "{count} {name}");
    }
    // The second name is taken: the first copy goes again.
    place.create("x-2", &[]);
    assert_eq!(code(&["fork", "src", "--count", "2", "--name", "x"]), "already_exists");
    assert_eq!(place.ids(), ["made", "src", "x-2"]);
    let pair = place.pair("src");
    assert!(pair.hypervisor.signal(rustix::process::Signal::KILL));
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    assert_eq!(code(&["fork", "src"]), "invalid_state", "nothing of a dead one can be copied");
    place.ok(&["delete", "made", "src", "x-2"]);
    oracle.assert_clean();
}

#[test]
fn whoever_is_killed_while_it_copies_leaves_a_source_that_runs_on() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    for point in ["before:freeze", "after:freeze", "before:thaw", "after:thaw"] {
        let killed = armed(&place, &["fork", "src", "--name", "copy"], &format!("kill@{point}")).run();
        assert_eq!(killed.signal(), Some(9), "{point}: {killed}");
        place.assert_answers("src");
        assert_eq!(sandbox(&place, "src")["state"], "running", "{point}");
        assert_eq!(place.ids(), ["src"], "{point}");
    }
    // What the killed ones left of the source's memory is in nobody's way, and goes.
    place.said(&["fork", "src", "--name", "copy"]);
    assert!(place.cleanup(&["--force"]).failed().is_empty());
    assert_eq!(place.ids(), ["copy", "src"]);
    let left = |part: &str| std::fs::read_dir(place.path("state/snapshots").join(part)).unwrap().count();
    assert_eq!((left("tmp"), left("locks")), (0, 0));
    place.ok(&["delete", "copy", "src"]);
    oracle.assert_clean();
}

/// Halted in the middle, so that what others want meets a guest that stands still.
#[test]
fn what_is_asked_of_a_source_that_stands_still_is_done_when_it_goes_on() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.boot(&["src"]);
    let copying = armed(&place, &["fork", "src", "--name", "copy"], "stop@after:freeze").spawn();
    let pid = copying.pid();
    testkit::until("a copy under way", BOOT, || is_stopped(pid).then_some(()));
    let asked = place.smolvm(&["exec", "src", "--", "echo", "later"]).timeout(BOOT).spawn();
    let busy = place.envelope(&["stop", "src", "--timeout", "1s"]);
    assert_eq!(busy["error"]["code"], "busy", "{busy:#}");
    Process::read(pid).unwrap().signal(rustix::process::Signal::CONT);
    assert_eq!(asked.wait().stdout, "later\n");
    copying.wait().assert_ok();
    place.assert_answers("copy");
    place.ok(&["delete", "src", "copy"]);
    oracle.assert_clean();
}

/// A command in which something goes wrong.
fn armed<'a>(place: &'a Place, args: &[&str], order: &str) -> Cmd<'a> {
    let trace = place.scratch().join("trace");
    std::fs::remove_file(&trace).ok();
    place.smolvm(args).env("SMOLVM_TEST_FAULT", order).env("SMOLVM_TEST_TRACE", trace).timeout(BOOT)
}

fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
