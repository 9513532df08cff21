//! `cleanup` by an ordinary user, who has no rights, beside root's own installation.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use support::{BOOT, Cleaned, Place, assert_ends, envelope};
use testkit::process::Process;
use testkit::{Ran, prerequisite};

const NOBODY: &str = "65534";

/// Copies what booting `minimal` needs to where the user can read it.
fn cache_for_the_user(place: &Place, home: &Path) {
    let (from, to) = (prerequisite::test_home().join("cache"), home.join("cache"));
    let digest = std::fs::read_to_string(from.join("images/by-name/minimal")).unwrap();
    let image = format!("images/{}", digest.trim().trim_start_matches("sha256:"));
    for part in ["kernels", "initramfs", "disks", &image, "images/by-name/minimal"] {
        let target = to.join(part);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        place.cmd("cp").args(&["-a", "--sparse=always"]).arg(from.join(part)).arg(&target).run().assert_ok();
    }
    place.cmd("chown").args(&["-R", &format!("{NOBODY}:{NOBODY}")]).arg(home).run().assert_ok();
}

#[test]
fn an_ordinary_user_cleans_up_their_own_and_nobody_elses() {
    let place = Place::without_network();
    let home = place.scratch().join("user");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(place.scratch(), std::fs::Permissions::from_mode(0o755)).unwrap();
    cache_for_the_user(&place, &home);
    // The test's binary may lie where only root may look.
    let smolvm = place.scratch().join("smolvm");
    std::fs::copy(prerequisite::smolvm_bin(), &smolvm).unwrap();
    let oracle = place.oracle();
    let as_user = |args: &[&str]| -> Ran {
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        let cmd = place.cmd("setpriv").args(&user).arg(&smolvm).args(args).arg("--json").env("SMOLVM_HOME", &home).env("HOME", &home);
        cmd.timeout(BOOT).run()
    };
    let ok = |args: &[&str]| {
        let ran = as_user(args);
        ran.assert_ok();
        envelope(&ran)["data"].clone()
    };
    for name in ["vm-dies", "vm-runs"] {
        ok(&["create", "--image", "minimal", "--name", name, "--net", "none"]);
        ok(&["start", name]);
    }
    let process = |name: &str| {
        let pid = ok(&["inspect", name])["sandbox"]["process"]["pid"].as_i64().unwrap();
        Process::read(i32::try_from(pid).unwrap()).unwrap()
    };
    let (dies, runs) = (process("vm-dies"), process("vm-runs"));

    // Root has another installation, even of the same home: the user's sandboxes are not its to remove.
    place.create("vm-root", &[]);
    let by_root = place.cleanup(&["--all", "--force"]);
    by_root.assert_ok();
    assert_eq!(by_root.deleted(), ["vm-root"]);
    assert!(dies.lives() && runs.lives());

    assert!(dies.signal(Signal::KILL));
    assert_ends(&dies);
    let dry = Cleaned::of(&as_user(&["cleanup", "--dry-run"]));
    assert_eq!((dry.targets(), dry.stale()), (vec!["vm-dies", "vm-runs"], vec!["vm-dies"]), "{}", dry.shown());
    let cleaned = Cleaned::of(&as_user(&["cleanup", "--force"]));
    cleaned.assert_ok();
    assert_eq!(cleaned.deleted(), ["vm-dies", "vm-runs"]);
    assert_ends(&runs);
    let left: Vec<_> = ["state/sandboxes", "run"].iter().flat_map(|d| std::fs::read_dir(home.join(d)).unwrap().flatten()).collect();
    assert!(left.is_empty(), "{left:?}");
    let touching = testkit::process::all().into_iter().filter(|process| process.touches(&home)).count();
    assert_eq!(touching, 0);
    oracle.assert_clean();
}
