//! A Debian of one's own with systemd, made of packages and booted by its own init: commands beside it, a fork of it, orderly ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use support::Place;

const NAME: &str = "localhost/systemd:1";
/// systemd needs twenty seconds under TCG on a machine that does nothing else.
const UP: Duration = Duration::from_mins(4);

/// Asks until there is somebody to ask, and then waits for the answer.
const STATE: &str = "i=0; while [ $i -lt 400 ]; do s=$(systemctl is-system-running --wait 2>/dev/null) || true; \
    case $s in running|degraded) echo $s; exit 0;; esac; i=$((i+1)); sleep 0.2; done; echo \"$s\"; exit 1";

fn is_up(place: &Place, id: &str) {
    let asked = place.smolvm(&["exec", id, "--", "sh", "-c", STATE]).timeout(UP).run();
    assert!(matches!(asked.assert_ok().stdout.trim(), "running" | "degraded"), "{asked}");
}

#[test]
fn a_debian_with_systemd_is_made_of_packages_booted_and_stopped_in_order() {
    testkit::prerequisite::programs(&["mmdebstrap"]);
    let place = Place::without_network().owning_images();
    let oracle = place.oracle();
    let recipe = ["image", "debootstrap", "--package", "systemd-sysv,dbus", "--name", NAME, "--json"];
    let made = place.smolvm(&recipe).timeout(Duration::from_mins(15)).run();
    made.assert_ok();
    let step = place.ok(&["image", "history", NAME])["history"][0].clone();
    let by = step["created_by"].as_str().unwrap();
    assert!(by.starts_with("smolvm image debootstrap ") && by.ends_with("--package systemd-sysv --package dbus"), "{by}");
    // It is forked like any other; its init begins after that.
    let started = place.ok(&["create", "--name", "vm-a", "--image", NAME, "--net", "none", "--init", "--start"]);
    assert_eq!((&started["sandbox"]["started_from"], &started["sandbox"]["init"]), (&"template".into(), &true.into()), "{started:#}");
    is_up(&place, "vm-a");
    let inside =
        "cat /proc/1/comm; systemctl is-active dbus; systemctl show -p Virtualization --value; hostname; cat /etc/apt/sources.list.d/*";
    let said = place.said(&["exec", "vm-a", "--", "sh", "-c", inside]);
    assert!(said.starts_with("systemd\nactive\ncontainer-other\nvm-a\nTypes: deb\n"), "{said}");
    // A service that outlives its command, and goes down in order with the machine.
    let unit = "systemd-run --quiet --unit=mine --property=ExecStop='/bin/touch /root/stopped' sleep 100000; systemctl is-active mine";
    assert_eq!(place.said(&["exec", "vm-a", "--", "sh", "-c", unit]), "active\n");
    // A copy goes on with its services.
    place.ok(&["fork", "vm-a", "--name", "vm-b"]);
    assert_eq!(place.said(&["exec", "vm-b", "--", "sh", "-c", "systemctl is-active mine; hostname"]), "active\nvm-b\n");
    for id in ["vm-a", "vm-b"] {
        let stopped = place.ok(&["stop", id]);
        assert_eq!(stopped["sandbox"]["exit"]["kind"], "stopped", "{stopped:#}");
    }
    let log = place.smolvm(&["logs", "vm-a"]).run();
    assert!(log.stdout.contains("Reached target") && log.stdout.contains("System Halt"), "{log}");
    // Started again it boots its init again, and the guest itself may end it.
    place.ok(&["start", "vm-a"]);
    is_up(&place, "vm-a");
    assert_eq!(place.said(&["exec", "vm-a", "--", "ls", "/root"]), "stopped\n");
    place.smolvm(&["exec", "vm-a", "--", "systemctl", "--no-block", "poweroff"]).run();
    testkit::until("the machine to be off", UP, || {
        let seen = place.ok(&["inspect", "vm-a"]);
        (seen["sandbox"]["state"] == "stopped").then(|| assert_eq!(seen["sandbox"]["exit"]["kind"], "guest_poweroff", "{seen:#}"))
    });
    // Without it nothing of the image is started.
    assert_eq!(
        place.said(&["run", "--net", "none", NAME, "--", "sh", "-c", "cat /proc/1/comm; ls -d /run/systemd 2>&1 || true"]).lines().count(),
        2
    );
    place.ok(&["delete", "vm-a", "vm-b"]);
    place.ok(&["template", "delete", "--all"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn an_image_without_an_init_says_so() {
    let place = Place::without_network().owning_images();
    let oracle = place.oracle();
    let root = place.scratch().join("rootfs");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    place.ok(&["image", "import", root.to_str().unwrap(), "--name", "localhost/bare:1"]);
    let failed = place.envelope(&["create", "--image", "localhost/bare:1", "--net", "none", "--init", "--start"]);
    assert_eq!(failed["error"]["code"], "guest_error", "{failed:#}");
    assert!(failed["error"].to_string().contains("the image has no /sbin/init"), "{failed:#}");
    place.ok(&["image", "import", root.to_str().unwrap(), "--name", "localhost/odd:1", "--change", "STOPSIGNAL SIGNOTHING"]);
    let refused = place.envelope(&["create", "--image", "localhost/odd:1", "--net", "none", "--init"]);
    assert_eq!(refused["error"]["code"], "refused", "{refused:#}");
    place.ok(&["template", "delete", "--all"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}
