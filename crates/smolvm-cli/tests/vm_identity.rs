//! The files in `/etc` that say who the guest is: right at every start, and a user's changes kept where they are no lie.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{BOOT, Place};

const ID: &str = "who";

fn guest(place: &Place, script: &str) -> String {
    let ran = place.smolvm(&["exec", ID, "--", "sh", "-c", script]).run();
    ran.assert_ok();
    ran.stdout
}

fn start(place: &Place) {
    place.smolvm(&["start", ID]).timeout(BOOT).run().assert_ok();
}

#[test]
fn the_guest_knows_who_it_is_after_every_start() {
    let place = Place::without_network();
    let oracle = place.oracle();
    place.ok(&["create", "--image", "minimal", "--name", ID, "--net", "none"]);
    start(&place);
    let owner = "stat -c '%a %u %g' /etc";
    let machine = guest(&place, "cat /etc/machine-id");
    assert_eq!(machine.trim().len(), 32);
    assert_eq!(guest(&place, "cat /etc/hostname; hostname"), format!("{ID}\n{ID}\n"));
    assert_eq!(guest(&place, &format!("grep -c '{ID}$' /etc/hosts; {owner}; wc -l < /etc/passwd | grep -c .")), "1\n755 0 0\n1\n");
    // Added to, replaced by a link, removed.
    guest(
        &place,
        "touch /etc/written; echo '10.9.9.9 friend' >> /etc/hosts; ln -sf /root/elsewhere /etc/machine-id; rm /etc/hostname; chmod 751 /etc",
    );
    place.ok(&["stop", ID]);
    start(&place);
    assert_eq!(guest(&place, "cat /etc/machine-id"), machine);
    assert_eq!(guest(&place, "cat /etc/hostname"), format!("{ID}\n"));
    assert_eq!(
        guest(&place, &format!("grep -c friend /etc/hosts; grep -c '{ID}$' /etc/hosts; ls /etc/written; {owner}")),
        "1\n1\n/etc/written\n751 0 0\n"
    );
    // A directory that was made anew hides what lies beneath it.
    guest(&place, "rm -rf /etc && mkdir /etc");
    place.ok(&["stop", ID]);
    start(&place);
    assert_eq!(guest(&place, "cat /etc/machine-id; cat /etc/hostname; ls /etc"), format!("{machine}{ID}\nhostname\nhosts\nmachine-id\n"));
    // A file of hosts that no longer knows the guest is made anew; /etc as a link is followed inside the guest alone.
    guest(&place, "echo '10.9.9.9 friend' > /etc/hosts; mv /etc /var/etc && ln -s /var/etc /etc");
    place.ok(&["stop", ID]);
    start(&place);
    assert_eq!(
        guest(&place, &format!("readlink /etc; cat /etc/machine-id; grep -c '{ID}$' /etc/hosts")),
        format!("/var/etc\n{machine}1\n")
    );
    place.ok(&["delete", ID]);
    oracle.assert_clean();
}
