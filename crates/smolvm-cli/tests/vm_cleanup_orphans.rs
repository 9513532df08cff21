//! Orphans: what carries this installation's mark and is in no record is found by the mark alone.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::path::Path;

use support::{Impostor, Place, Pty, assert_ends, rows, tree};
use testkit::FakeStranger;

/// Takes the database away, as a disk that lost a file does.
fn lose_database(place: &Place) {
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(place.path("state").join(file)).ok();
    }
    assert!(!place.path("state/state.db").exists());
}

fn kinds(orphans: &std::collections::BTreeSet<(&str, bool)>) -> Vec<String> {
    orphans.iter().map(|(kind, _)| (*kind).to_owned()).collect()
}

/// The database is gone while guests run: all of it is listed, the prefix takes its part, `--all` the rest.
#[test]
fn without_a_database_everything_is_found_by_its_mark() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pairs = place.boot(&["named", "vm-auto"]);
    place.seed(&["seeded"]);
    lose_database(&place);

    let before = tree(place.home());
    // `list` shows at once what costs nothing to see, and where more is told.
    let data = place.ok(&["list"]);
    let seen: Vec<(&str, &str)> =
        data["orphans"].as_array().unwrap().iter().map(|o| (o["id"].as_str().unwrap(), o["kind"].as_str().unwrap())).collect();
    for id in ["named", "vm-auto", "seeded"] {
        for kind in ["tap", "run_dir", "state_dir"] {
            assert!(seen.contains(&(id, kind)), "{id} {kind}: {data:#}");
        }
    }
    let mut person = Pty::smolvm(&place, &["list"]);
    assert!(person.expect("9 things on this host are in no record").contains("named, seeded, vm-auto; see: smolvm doctor"));
    drop(person);
    let dry = place.cleanup(&["--dry-run"]);
    dry.assert_ok();
    assert!(dry.targets().is_empty() && dry.stale().is_empty(), "{}", dry.shown());
    let whole = ["monitor", "nft_elements", "process", "run_dir", "state_dir", "tap"];
    assert_eq!(kinds(&dry.orphans_of(&place.mark("named"))), whole, "{}", dry.shown());
    assert_eq!(kinds(&dry.orphans_of(&place.mark("vm-auto"))), whole, "{}", dry.shown());
    assert_eq!(kinds(&dry.orphans_of(&place.mark("seeded"))), ["nft_elements", "run_dir", "state_dir", "tap"], "{}", dry.shown());
    assert!(dry.shown().contains(&place.table()), "the table too: {}", dry.shown());
    assert!(dry.list("orphans").iter().all(|orphan| orphan["removed"] == false));
    let human = place.smolvm(&["cleanup", "--dry-run"]).run();
    for id in ["named", "vm-auto", "seeded"] {
        assert!(human.stdout.contains(&place.mark(id)), "listed always\n{human}");
    }
    assert_eq!(tree(place.home()), before, "a dry run makes no database");

    // The prefix takes what matches it, and leaves the others listed and alone.
    let by_prefix = place.cleanup(&["--force"]);
    by_prefix.assert_ok();
    assert!(by_prefix.orphans_of(&place.mark("vm-auto")).iter().all(|(_, removed)| *removed), "{}", by_prefix.shown());
    assert!(by_prefix.orphans_of(&place.mark("named")).iter().all(|(_, removed)| !*removed), "{}", by_prefix.shown());
    assert_ends(&pairs["vm-auto"].hypervisor);
    assert_ends(&pairs["vm-auto"].monitor);
    assert!(pairs["named"].hypervisor.lives() && pairs["named"].monitor.lives());
    assert!(place.taps(&place.mark("vm-auto")).is_empty() && place.taps(&place.mark("named")).len() == 1);
    assert!(place.path("state/sandboxes/named/data.img").exists() && !place.path("state/sandboxes/vm-auto").exists());
    let other = place.cleanup(&["--force", "--prefix", "seed"]);
    other.assert_ok();
    assert!(place.taps(&place.mark("seeded")).is_empty() && !place.path("run/seeded").exists(), "{}", other.shown());

    let rest = place.cleanup(&["--all", "--force"]);
    rest.assert_ok();
    assert!(rest.list("orphans").iter().all(|orphan| orphan["removed"] == true), "{}", rest.shown());
    assert_ends(&pairs["named"].hypervisor);
    assert_ends(&pairs["named"].monitor);
    oracle.assert_clean();
    let last = place.cleanup(&["--dry-run", "--all"]);
    assert!(last.list("orphans").is_empty(), "{}", last.shown());
}

/// A monitor that does not run cannot end by itself when its hypervisor has: it is found, too, and ended.
#[test]
fn a_frozen_monitor_without_a_record_is_found_by_its_mark() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-frozen"])["vm-frozen"].clone();
    pair.monitor.signal(rustix::process::Signal::STOP);
    lose_database(&place);
    let dry = place.cleanup(&["--dry-run"]);
    dry.assert_ok();
    let found = kinds(&dry.orphans_of(&place.mark("vm-frozen")));
    assert!(found.contains(&"monitor".to_owned()) && found.contains(&"process".to_owned()), "{}", dry.shown());
    assert!(pair.monitor.lives());
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    oracle.assert_clean();
}

/// A hypervisor that cannot be proven is not ended by way of its monitor either, and nothing is taken from under it.
#[test]
fn a_doubt_about_the_hypervisor_keeps_everything_of_its_sandbox() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-doubt"])["vm-doubt"].clone();
    lose_database(&place);
    // As after an upgrade: the hypervisor that is installed now is another file than the one that runs.
    let other = place.scratch().join("qemu");
    std::fs::copy(&pair.hypervisor.argv[0], &other).unwrap();
    let ran = place.smolvm(&["cleanup", "--force", "--json"]).env("SMOLVM_HYPERVISOR", &other).run();
    let cleaned = support::Cleaned::of(&ran);
    cleaned.assert_partial();
    assert!(cleaned.shown().contains("not proven"), "{}", cleaned.shown());
    assert!(pair.hypervisor.lives() && pair.monitor.lives(), "{}", cleaned.shown());
    assert_eq!(place.taps(&place.mark("vm-doubt")).len(), 1);
    assert!(place.path("run/vm-doubt").exists() && place.path("state/sandboxes/vm-doubt/data.img").exists());
    // The table belongs to all: only --all takes what is in no record of it.
    place.cleanup(&["--force", "--all"]).assert_ok();
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    oracle.assert_clean();
}

/// A hypervisor that the ledger has lost goes on under its uid: nobody else's gets the same one.
#[test]
fn the_uid_of_an_orphan_is_not_given_away() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let lost = place.boot(&["vm-lost"])["vm-lost"].clone();
    lose_database(&place);
    let next = place.boot(&["vm-next"])["vm-next"].clone();
    assert!(lost.hypervisor.lives());
    assert_ne!(lost.hypervisor.uid, next.hypervisor.uid);
    place.cleanup(&["--force", "--all"]).assert_ok();
    assert_ends(&lost.hypervisor);
    assert_ends(&next.hypervisor);
    oracle.assert_clean();
}

/// The whole state directory is gone and made anew: its old marks are still its own.
#[test]
fn a_state_directory_that_was_made_anew_owns_its_old_marks() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let pair = place.boot(&["vm-a"])["vm-a"].clone();
    place.seed(&["named"]);
    std::fs::remove_dir_all(place.path("state")).unwrap();
    // Somebody goes on working in it before anything is cleaned up.
    place.create("vm-new", &[]);
    let dry = place.cleanup(&["--dry-run"]);
    dry.assert_ok();
    assert_eq!(dry.targets(), ["vm-new"]);
    assert!(kinds(&dry.orphans_of(&place.mark("vm-a"))).contains(&"process".to_owned()), "{}", dry.shown());
    assert!(kinds(&dry.orphans_of(&place.mark("named"))).contains(&"tap".to_owned()), "{}", dry.shown());
    let cleaned = place.cleanup(&["--force", "--all"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["vm-new"]);
    assert_ends(&pair.hypervisor);
    assert_ends(&pair.monitor);
    oracle.assert_clean();
}

/// An old backup of the ledger is put back: what it does not know is an orphan, what it wrongly knows
/// goes, and a hypervisor that it knows nothing of is not left behind under a row that was cleaned.
#[test]
fn an_old_backup_that_was_restored_hides_nothing() {
    let place = Place::with_network();
    let oracle = place.oracle();
    for name in ["vm-then", "vm-since-deleted", "named-then"] {
        place.create(name, &[]);
    }
    let backup = place.scratch().join("backup.db");
    rows::open(&place).execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
    let then = place.boot_made(&["vm-then", "named-then"]);
    let since = place.boot(&["vm-since"])["vm-since"].clone();
    place.ok(&["delete", "vm-since-deleted"]);
    lose_database(&place);
    std::fs::copy(&backup, place.path("state/state.db")).unwrap();

    // In the backup these were never started; on the host they run.
    let dry = place.cleanup(&["--dry-run"]);
    assert_eq!(dry.targets(), ["vm-since-deleted", "vm-then"], "{}", dry.shown());
    assert!(kinds(&dry.orphans_of(&place.mark("vm-since"))).contains(&"process".to_owned()), "{}", dry.shown());
    let cleaned = place.cleanup(&["--force"]);
    assert_ends(&since.hypervisor);
    assert_ends(&since.monitor);
    assert!(place.taps(&place.mark("vm-since")).is_empty());
    // Whatever is said to be deleted is proven gone.
    if cleaned.deleted().contains(&"vm-then") {
        assert!(
            !then["vm-then"].hypervisor.lives() && place.taps(&place.mark("vm-then")).is_empty(),
            "`vm-then` is called deleted, and its hypervisor runs on: {}",
            cleaned.shown()
        );
    } else {
        cleaned.failure("vm-then");
    }
    assert!(then["named-then"].hypervisor.lives(), "a named sandbox is no target");
    let all = place.cleanup(&["--force", "--all"]);
    all.assert_ok();
    for pair in then.values() {
        assert_ends(&pair.hypervisor);
        assert_ends(&pair.monitor);
    }
    oracle.assert_clean();
}

/// A process with the mark that is no hypervisor of ours is listed and left alone, and the command says so.
#[test]
fn a_process_that_only_carries_the_mark_is_not_killed() {
    let place = Place::with_network();
    place.create("named", &[]);
    place.ok(&["delete", "named"]);
    let oracle = place.oracle();
    let token = "11111111-1111-4111-8111-111111111111";
    std::fs::create_dir_all(place.path("state/sandboxes/vm-dressed")).unwrap();
    let sitting = place.path("state/sandboxes/vm-dressed");
    // A shell in the sandbox's own directory; the hypervisor's program bound to nothing; both with mark and token in place.
    let shell = Impostor::shell(&place.mark("vm-dressed"), token, &sitting);
    let program = Impostor::hypervisor(&place.mark("vm-program"), token);
    // The mark as an accident somewhere among the words is not even listed.
    let accident = FakeStranger::spawn(&[&place.mark("vm-accident"), token]);

    let dry = place.cleanup(&["--dry-run"]);
    assert!(kinds(&dry.orphans_of(&place.mark("vm-dressed"))).contains(&"process".to_owned()), "listed: {}", dry.shown());
    assert!(kinds(&dry.orphans_of(&place.mark("vm-program"))).contains(&"process".to_owned()), "listed: {}", dry.shown());
    for args in [&["--force"][..], &["--force", "--all"]] {
        let cleaned = place.cleanup(args);
        cleaned.assert_partial();
        cleaned.failure("vm-dressed");
        cleaned.failure("vm-program");
        assert!(cleaned.list("orphans").iter().all(|orphan| orphan["removed"] == false), "{}", cleaned.shown());
        shell.assert_lives();
        program.assert_lives();
        accident.assert_lives();
    }
    // With a prefix that they do not match they are listed and no failure.
    let other = place.cleanup(&["--force", "--prefix", "ci-"]);
    other.assert_ok();
    assert!(!other.orphans_of(&place.mark("vm-dressed")).is_empty(), "{}", other.shown());
    drop((shell, program, accident));
    std::fs::remove_dir(&sitting).unwrap();
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Another installation's marks, and things without a mark, are never touched, whatever their name.
#[test]
fn foreign_marks_and_no_marks_are_never_touched() {
    let place = Place::with_network();
    place.seed(&["vm-a", "named"]);
    let foreign = "smolvm:aaaaaaaaaa:vm-a";
    let host = place.host();
    // Devices: another's alias, none at all, a look-alike of ours, ours on something that is no TAP.
    for (name, alias) in [("svtaaaaaaaaaaaa", Some(foreign)), ("svtbbbbbbbbbbbb", None), ("tap9", Some("smolvm:vm-a"))] {
        host.ip(&format!("tuntap add dev {name} mode tap")).unwrap();
        if let Some(alias) = alias {
            host.ip(&format!("link set dev {name} alias {alias}")).unwrap();
        }
    }
    host.ip("link add dummy0 type veth peer name dummy1").unwrap();
    host.run("ip", &["link", "set", "dev", "dummy0", "alias", &place.mark("vm-a")]).unwrap();
    // Tables: another installation's with elements in it, and one that is nobody's.
    let theirs = "add table inet smolvm_aaaaaaaaaa { set sources { type ifname; elements = { \"svtaaaaaaaaaaaa\" comment \"smolvm:aaaaaaaaaa:vm-a\" }; }; }";
    host.run("nft", &[theirs]).unwrap();
    host.run("nft", &["add table ip smolvm"]).unwrap();
    // An element in our own table that is not ours.
    host.run("nft", &[&format!("add element inet {} sources {{ \"svtbbbbbbbbbbbb\" . 02:00:00:00:00:09 . 10.9.9.9 }}", place.table())])
        .unwrap();
    // Directories: another's owner file, and none.
    for (name, owner) in [("vm-foreign", Some(foreign)), ("vm-bare", None), ("vm-garbage", Some("\u{0}\n"))] {
        for parent in ["state/sandboxes", "run"] {
            let directory = place.path(parent).join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("data.img"), "theirs").unwrap();
            if let Some(owner) = owner {
                std::fs::write(directory.join("owner"), owner).unwrap();
            }
        }
    }
    let elsewhere = place.scratch().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("owner"), place.mark("vm-link")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, place.path("state/sandboxes/vm-link")).unwrap();
    let stranger = Impostor::shell(foreign, "11111111-1111-4111-8111-111111111111", Path::new("/"));

    let cleaned = place.cleanup(&["--all", "--force"]);
    assert_eq!(cleaned.deleted(), ["named", "vm-a"], "{}", cleaned.shown());
    stranger.assert_lives();
    let links = host.ip("-br link").unwrap();
    for name in ["svtaaaaaaaaaaaa", "svtbbbbbbbbbbbb", "tap9", "dummy0"] {
        assert!(links.contains(name), "{name} is gone: {}", cleaned.shown());
    }
    let nft = place.nft();
    assert!(nft.contains("table inet smolvm_aaaaaaaaaa") && nft.contains("comment \"smolvm:aaaaaaaaaa:vm-a\""), "{nft}");
    assert!(nft.contains("table ip smolvm "), "{nft}");
    assert!(nft.contains("02:00:00:00:00:09"), "an element without our mark was removed: {nft}\n{}", cleaned.shown());
    for name in ["vm-foreign", "vm-bare", "vm-garbage"] {
        for parent in ["state/sandboxes", "run"] {
            assert!(place.path(parent).join(name).join("data.img").exists(), "{parent}/{name} is gone: {}", cleaned.shown());
        }
    }
    assert!(elsewhere.join("owner").exists());
    // `doctor` lists the other installation; nothing removes it.
    let doctor = place.smolvm(&["doctor", "--json"]).run();
    assert!(doctor.stdout.contains("aaaaaaaaaa"), "{doctor}");
    let again = place.cleanup(&["--all", "--force"]);
    assert!(host.ip("link show svtaaaaaaaaaaaa").is_ok(), "{}", again.shown());
}

/// A TAP of the very name of ours that somebody else has put there.
#[test]
fn a_tap_of_our_name_with_a_foreign_alias_is_refused() {
    let place = Place::with_network();
    place.seed(&["vm-a", "vm-b"]);
    let tap = place.taps(&place.mark("vm-a")).remove(0);
    place.host().ip(&format!("link set dev {tap} alias somebody-elses")).unwrap();
    let cleaned = place.cleanup(&["--force"]);
    assert!(place.host().ip(&format!("link show {tap}")).is_ok(), "a stranger's device was removed: {}", cleaned.shown());
    assert!(cleaned.steps_of("vm-a").contains(&("tap", "refused")), "{}", cleaned.shown());
    assert!(cleaned.deleted().contains(&"vm-b"), "the other is cleaned: {}", cleaned.shown());
    // Either it is told as a failure and the row stays, or nothing of ours is left and the row is gone: never both.
    let row = rows::ids(&place).contains(&"vm-a".to_owned());
    assert_eq!(cleaned.deleted().contains(&"vm-a"), !row, "{}", cleaned.shown());
    assert_eq!(cleaned.failed().iter().any(|(id, _)| *id == "vm-a"), row, "{}", cleaned.shown());
    assert_eq!(cleaned.code, i32::from(row), "{}", cleaned.shown());
    assert!(!place.path("state/sandboxes/vm-a").exists() && !place.path("run/vm-a").exists(), "everything else still happens");
    place.host().ip(&format!("link delete {tap}")).unwrap();
    place.cleanup(&["--force"]).assert_ok();
    assert!(rows::ids(&place).is_empty() && !place.nft().contains(&place.table()));
}

/// A directory of our name that somebody else's owner file claims is refused the same way.
#[test]
fn a_directory_that_somebody_else_claims_is_refused() {
    let place = Place::without_network();
    place.create("vm-a", &[]);
    let directory = place.path("state/sandboxes/vm-a");
    std::fs::write(directory.join("owner"), "smolvm:aaaaaaaaaa:vm-a\n").unwrap();
    let cleaned = place.cleanup(&["--force"]);
    assert!(directory.join("data.img").exists(), "{}", cleaned.shown());
    assert!(cleaned.steps_of("vm-a").contains(&("state_dir", "refused")), "{}", cleaned.shown());
    let row = rows::ids(&place).contains(&"vm-a".to_owned());
    assert_eq!((cleaned.deleted().contains(&"vm-a"), cleaned.code), (!row, i32::from(row)), "{}", cleaned.shown());
}

/// No symlink is followed, whoever put it there: in a sandbox's directories, or in their place.
#[test]
fn no_symlink_is_followed() {
    let place = Place::with_network();
    place.seed(&["vm-inside", "vm-replaced"]);
    let bait = place.scratch().join("bait");
    std::fs::create_dir_all(bait.join("deep")).unwrap();
    std::fs::write(bait.join("deep/precious"), "x").unwrap();
    // The right mark in it makes it no directory of ours.
    std::fs::write(bait.join("owner"), format!("{}\n", place.mark("vm-replaced"))).unwrap();
    for parent in ["state/sandboxes", "run"] {
        std::os::unix::fs::symlink(&bait, place.path(parent).join("vm-inside/link")).unwrap();
        std::os::unix::fs::symlink(bait.join("deep/precious"), place.path(parent).join("vm-inside/file")).unwrap();
        std::fs::remove_dir_all(place.path(parent).join("vm-replaced")).unwrap();
        std::os::unix::fs::symlink(&bait, place.path(parent).join("vm-replaced")).unwrap();
    }
    let before = tree(&bait);
    let cleaned = place.cleanup(&["--force", "--all"]);
    assert_eq!(tree(&bait), before, "{}", cleaned.shown());
    assert!(cleaned.deleted().contains(&"vm-inside"), "{}", cleaned.shown());
    assert!(!place.path("state/sandboxes/vm-inside").exists() && !place.path("run/vm-inside").exists());
    assert!(place.taps("smolvm:").is_empty(), "{}", cleaned.shown());
    // Told, or gone with nothing of ours left; a link of somebody's own is not removed in silence.
    let told = cleaned.failed().iter().any(|(id, _)| *id == "vm-replaced");
    assert_eq!(told, rows::ids(&place).contains(&"vm-replaced".to_owned()), "{}", cleaned.shown());
    assert!(cleaned.steps_of("vm-replaced").iter().any(|(_, outcome)| *outcome == "refused"), "{}", cleaned.shown());
}
