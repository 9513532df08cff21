//! Clocks: what a host finds that slept (docs/adr/0014).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs and takes away what it made")]

mod support;

use support::{BOOT, Place};
use testkit::prerequisite;

/// A command in a time namespace whose clock since boot is ten days ahead: what was running runs, is who it was, and
/// answers; what has time to live left by the wall clock has it; and it can be stopped, started and taken away from there.
#[test]
fn a_host_that_slept_for_ten_days_finds_its_sandboxes() {
    let place = Place::with_network();
    let oracle = place.oracle();
    prerequisite::programs(&["unshare"]);
    let smolvm = prerequisite::smolvm_bin();
    let slept = |args: &[&str]| {
        let line = ["--time", "--boottime", "864000", smolvm.to_str().unwrap()];
        support::envelope(&place.cmd("unshare").args(&line).args(args).arg("--json").timeout(BOOT).run())
    };
    place.create("named", &["--ttl", "1h"]);
    place.boot_made(&["named"]);
    let listed = slept(&["list"]);
    let sandbox = &listed["data"]["sandboxes"][0];
    assert_eq!((sandbox["state"].as_str(), sandbox["stale"].as_bool()), (Some("running"), Some(false)), "{listed:#}");
    let dry = slept(&["cleanup", "--dry-run"]);
    assert_eq!(
        (&dry["data"]["targets"], &dry["data"]["reconciled_stale_ids"]),
        (&serde_json::json!([]), &serde_json::json!([])),
        "{dry:#}"
    );
    place.assert_answers("named");
    assert_eq!(slept(&["stop", "named"])["ok"], true);
    // What is started from there is known from here.
    assert_eq!(slept(&["start", "named"])["ok"], true);
    assert_eq!(place.list()["named"]["stale"], false);
    place.assert_answers("named");
    assert_eq!(slept(&["cleanup", "--all", "--force"])["ok"], true);
    assert!(place.ids().is_empty());
    oracle.assert_clean();
}
