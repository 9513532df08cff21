//! Guests that do not do what they should: each start gives one clear error and leaves nothing running.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as the test itself would")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::Place;
use testkit::prerequisite;

/// A home whose cache is a copy in which the initramfs can be spoilt.
fn place_with_initramfs(spoil: impl Fn(&Path)) -> Place {
    let place = Place::without_network();
    let cache = place.path("cache");
    std::fs::remove_file(&cache).unwrap();
    let from = prerequisite::test_home().join("cache");
    place.cmd("cp").args(&["-a", from.to_str().unwrap(), cache.to_str().unwrap()]).run().assert_ok();
    // A template was booted from the sound one.
    place.cmd("rm").args(&["-rf", cache.join("templates").to_str().unwrap()]).run().assert_ok();
    let current = std::fs::read_to_string(cache.join("initramfs/current")).unwrap();
    // The initramfs named by the digest of agent and modules is the one that is booted.
    let name = current.split_whitespace().next().unwrap();
    let directory = std::fs::read_dir(cache.join("initramfs"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir() && current.contains(p.file_name().unwrap().to_str().unwrap()));
    let directory = directory.unwrap_or_else(|| panic!("no initramfs of {name}"));
    spoil(&directory.join("initramfs.cpio"));
    place
}

/// Changes some bytes of a read-only file and nothing else: its length and the agent inside are checked at every start.
fn patch(file: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut content = std::fs::read(file).unwrap();
    let at = content
        .windows(from.len())
        .position(|w| w == from)
        .unwrap_or_else(|| panic!("{} not in {}", String::from_utf8_lossy(from), file.display()));
    content[at..at + to.len()].copy_from_slice(to);
    std::fs::remove_file(file).unwrap();
    std::fs::write(file, content).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_guest_that_panics_at_boot_is_named_and_taken_back() {
    let place = place_with_initramfs(|file| patch(file, b"070701", b"broken"));
    let oracle = place.oracle();
    place.create("broken", &[]);
    let started = std::time::Instant::now();
    let failed = place.envelope(&["start", "broken"]);
    assert_eq!((failed["exit_code"].as_i64(), failed["error"]["code"].as_str()), (Some(1), Some("guest_error")), "{failed:#}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("panic"), "{failed:#}");
    assert!(failed["error"]["recovery"].as_str().unwrap().contains("smolvm logs broken"), "{failed:#}");
    assert!(started.elapsed().as_secs() < 55, "it was noticed by the deadline only");
    let sandbox = place.list()["broken"].clone();
    assert_eq!(
        (sandbox["state"].as_str(), sandbox["failure"]["during"].as_str(), sandbox["process"].is_null()),
        (Some("failed"), Some("start"), true)
    );
    let console = place.smolvm(&["logs", "broken"]).run();
    assert!(console.stdout.contains("panic"), "{console}");
    place.ok(&["delete", "broken"]);
    oracle.assert_clean();
}

#[test]
fn a_guest_that_never_answers_meets_the_deadline() {
    // Without the driver of its port the agent waits for ever for a port to appear.
    let place = place_with_initramfs(|file| patch(file, b"base virtio_console.ko", b"idle virtio_console.ko"));
    let oracle = place.oracle();
    place.create("silent", &[]);
    let failed = place.envelope(&["start", "silent", "--timeout", "8s"]);
    assert_eq!((failed["exit_code"].as_i64(), failed["error"]["code"].as_str()), (Some(124), Some("timeout")), "{failed:#}");
    let sandbox = place.list()["silent"].clone();
    assert_eq!((sandbox["state"].as_str(), sandbox["failure"]["code"].as_str()), (Some("failed"), Some("timeout")));
    place.ok(&["delete", "silent"]);
    oracle.assert_clean();
}
