//! Whose process it is: by pid, start time, boot and token together, and never by less. What cannot
//! be read is told and left alone.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::process::{Command, Stdio};

use support::{Impostor, Place, rows};
use testkit::FakeStranger;
use testkit::process::Process;

const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000001";

/// Points the record of `id` at a process that is somebody else's.
fn record(place: &Place, id: &str, process: &Process) {
    rows::set_identity(place, id, "pid", process.pid);
    rows::set_identity(place, id, "start_ticks", process.start);
}

#[test]
fn a_recycled_pid_is_nobody_of_ours() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let install = place.install();
    place.seed(&["vm-pid", "pid-and-start", "token-elsewhere", "another-boot"]);
    let token = |id: &str| rows::identity(&place, id)["token"].as_str().unwrap().to_owned();
    // Strangers that look more and more like ours: the number; the start time; even mark and token.
    let plain = FakeStranger::spawn(&["harmless"]);
    let same_start = FakeStranger::spawn(&["harmless"]);
    let dressed_up = Impostor::shell(&format!("smolvm:{install}:token-elsewhere"), &token("token-elsewhere"), place.home());
    let from_then = Impostor::shell(&format!("smolvm:{install}:another-boot"), &token("another-boot"), place.home());
    rows::set_identity(&place, "vm-pid", "pid", plain.pid());
    record(&place, "pid-and-start", same_start.identity());
    rows::set_identity(&place, "token-elsewhere", "pid", dressed_up.process().pid);
    record(&place, "another-boot", from_then.process());
    rows::set_identity(&place, "another-boot", "boot_id", OTHER_BOOT);

    let dry = place.cleanup(&["--dry-run"]);
    assert_eq!(dry.stale(), ["another-boot", "pid-and-start", "token-elsewhere", "vm-pid"], "{}", dry.shown());
    let cleaned = place.cleanup(&["--force"]);
    assert_eq!(cleaned.deleted().len(), 4, "{}", cleaned.shown());
    cleaned.assert_ok();
    plain.assert_lives();
    same_start.assert_lives();
    dressed_up.assert_lives();
    from_then.assert_lives();
    assert!(place.ids().is_empty());
    // The strangers go as they came, by the test's own hand.
    drop((plain, same_start, dressed_up, from_then));
    oracle.assert_clean();
}

/// After a reboot everything recorded under another boot id is gone, whatever runs now.
#[test]
fn another_boot_makes_everything_stale() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-a"]);
    place.create("made", &[]);
    let file = place.scratch().join("boot_id");
    std::fs::write(&file, format!("{OTHER_BOOT}\n")).unwrap();
    let ran = place.smolvm(&["cleanup", "--force", "--json"]).env("SMOLVM_BOOT_ID_FILE", &file).run();
    let cleaned = support::Cleaned::of(&ran);
    cleaned.assert_ok();
    assert_eq!((cleaned.stale(), cleaned.deleted()), (vec!["named", "vm-a"], vec!["named", "vm-a"]));
    assert_eq!(place.ids(), ["made"], "what claims no process is not stale");
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

#[test]
fn a_zombie_is_gone() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named"]);
    // Our own child, ended and not waited for.
    let mut child = Command::new("/bin/sh").args(["-s", "a", "b", "c"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let alive = testkit::until("the child is there", support::SOON, || Process::read(pid));
    drop(child.stdin.take());
    testkit::until("the child is a zombie", support::SOON, || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ").then_some(())
    });
    record(&place, "named", &alive);
    let cleaned = place.cleanup(&["--force"]);
    child.wait().unwrap();
    cleaned.assert_ok();
    assert_eq!((cleaned.stale(), cleaned.deleted()), (vec!["named"], vec!["named"]));
    oracle.assert_clean();
}

/// Evidence that cannot be read: the sandbox is a failure, in a dry run too; nothing of it is touched.
#[test]
fn unreadable_evidence_is_told_and_left_alone() {
    let place = Place::with_network();
    let oracle = place.oracle();
    place.seed(&["named", "vm-seeded"]);
    let stranger = FakeStranger::spawn(&["harmless"]);
    record(&place, "named", stranger.identity());
    // Inside the private host, what the kernel says of that process is covered by rubbish.
    let rubbish = place.scratch().join("rubbish");
    std::fs::write(&rubbish, "not what the kernel says\n").unwrap();
    let stat = format!("/proc/{}/stat", stranger.pid());
    place.host().bind_file(&rubbish, stat.as_ref()).unwrap();

    for args in [&["--dry-run"][..], &["--dry-run", "--all"]] {
        let dry = place.cleanup(args);
        dry.assert_partial();
        assert_eq!((dry.targets(), dry.stale()), (vec!["vm-seeded"], vec!["vm-seeded"]), "{}", dry.shown());
        assert!(dry.failure("named")["error"].as_str().unwrap().contains(&stranger.pid().to_string()), "{}", dry.shown());
    }
    let human = place.smolvm(&["cleanup", "--dry-run"]).run();
    human.assert_code(1);
    assert!(human.stdout.contains("named"), "{human}");
    let cleaned = place.cleanup(&["--force", "--all"]);
    cleaned.assert_partial();
    assert_eq!((cleaned.deleted(), cleaned.failed().len()), (vec!["vm-seeded"], 1), "the rest is cleaned: {}", cleaned.shown());
    cleaned.failure("named");
    stranger.assert_lives();
    assert_eq!(place.ids(), ["named"]);
    assert_eq!(place.taps(&place.mark("named")).len(), 1, "its TAP is still there");
    assert!(place.path("state/sandboxes/named/data.img").exists());
    assert_eq!(place.list()["named"]["stale"], false, "unknown is not stale");

    // Readable again, it is what it is.
    place.inside(|| rustix::mount::unmount(stat.as_str(), rustix::mount::UnmountFlags::empty())).unwrap();
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["named"]);
    stranger.assert_lives();
    oracle.assert_clean();
}

/// The same where a lock cannot be looked at.
#[test]
fn a_lock_that_cannot_be_read_is_unknown_too() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.create("named", &[]);
    rows::set_state(&place, "named", "creating");
    let lock = place.path("state/locks/named.lock");
    std::fs::remove_file(&lock).ok();
    std::os::unix::fs::symlink("/etc/passwd", &lock).unwrap();
    let dry = place.cleanup(&["--dry-run", "--all"]);
    dry.assert_partial();
    dry.failure("named");
    place.cleanup(&["--force", "--all"]).assert_partial();
    assert!(place.path("state/sandboxes/named/data.img").exists());
    std::fs::remove_file(&lock).unwrap();
    assert!(std::path::Path::new("/etc/passwd").exists());
    place.cleanup(&["--force"]).assert_ok();
    oracle.assert_clean();
}

/// A living hypervisor whose record is complete is ended; one that also belongs to a stale row is not mixed up with it.
#[test]
fn a_running_sandbox_is_ended_by_its_own_record_only() {
    let place = Place::without_network();
    let oracle = place.oracle();
    let pair = place.boot(&["named"])["named"].clone();
    place.create("vm-thief", &[]);
    // A row that claims the other's process, with another token.
    let identity = rows::identity(&place, "named")
        .to_string()
        .replace(rows::identity(&place, "named")["token"].as_str().unwrap(), "11111111-1111-4111-8111-111111111111");
    rows::open(&place)
        .execute(
            "INSERT INTO ledger (kind, key, sandbox, status, identity) VALUES ('process', '11111111-1111-4111-8111-111111111111', 'vm-thief', 'held', ?1)",
            [&identity],
        )
        .unwrap();
    rows::set_state(&place, "vm-thief", "running");
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((cleaned.stale(), cleaned.deleted()), (vec!["vm-thief"], vec!["vm-thief"]));
    assert!(pair.hypervisor.lives() && pair.monitor.lives());
    place.assert_answers("named");
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}

/// Every state that claims a process is stale when the process is gone; the others never are.
#[test]
fn every_state_that_claims_a_process_can_be_stale() {
    let place = Place::with_network();
    let oracle = place.oracle();
    let claiming = ["paused", "running", "starting", "stopping"];
    let resting = ["created", "failed", "stopped"];
    place.seed(&[claiming, ["created", "failed", "stopped", "untouched"]].concat());
    for state in claiming.into_iter().chain(resting) {
        rows::set_state(&place, state, state);
    }
    let stale = ["paused", "running", "starting", "stopping", "untouched"];
    let cleaned = place.cleanup(&["--force"]);
    cleaned.assert_ok();
    assert_eq!((cleaned.stale(), cleaned.deleted()), (stale.to_vec(), stale.to_vec()), "{}", cleaned.shown());
    assert_eq!(place.ids(), resting);
    place.cleanup(&["--force", "--all"]).assert_ok();
    oracle.assert_clean();
}
