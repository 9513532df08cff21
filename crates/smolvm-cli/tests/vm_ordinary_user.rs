//! Everything that matters, as a user without any rights: no TAP, no uid of its own, and still a jail.

mod support;

use support::{BOOT, Place};
use testkit::{Cmd, NetnsHost, prerequisite};

/// nobody on Debian; any uid without rights would do.
const NOBODY: &str = "65534";

/// The binary as an ordinary user, with a home and a cache that are that user's.
fn as_nobody<'a>(place: &'a Place, args: &[&str]) -> Cmd<'a> {
    let bin = place.scratch().join("smolvm");
    let words = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--inh-caps=-all", bin.to_str().expect("a path in UTF-8")];
    place.cmd("setpriv").args(&words).args(args).timeout(BOOT)
}

#[test]
fn an_ordinary_user_has_sandboxes_too() {
    let place = Place::with_network();
    let (home, scratch) = (place.home().to_str().unwrap(), place.scratch().to_str().unwrap());
    let cache = place.path("cache");
    std::fs::remove_file(&cache).unwrap();
    place
        .cmd("cp")
        .args(&["-a", "--reflink=auto", prerequisite::test_home().join("cache").to_str().unwrap(), cache.to_str().unwrap()])
        .run()
        .assert_ok();
    place.cmd("cp").args(&[prerequisite::smolvm_bin().to_str().unwrap(), &format!("{scratch}/smolvm")]).run().assert_ok();
    place.cmd("chown").args(&["-R", &format!("{NOBODY}:{NOBODY}"), home, &format!("{scratch}/smolvm")]).run().assert_ok();
    place.cmd("chmod").args(&["755", scratch]).run().assert_ok();
    let web = testkit::HttpServer::with_files(Some(place.server()), (NetnsHost::SERVER, 8080), &[("/hello.txt", b"hello from outside")]);
    let oracle = place.oracle();

    let refused = as_nobody(&place, &["create", "--image", "minimal", "--name", "box", "--net", "tap"]).run();
    refused.assert_code(1);
    assert!(refused.stderr.contains("--net user"), "the way out is named: {refused}");
    as_nobody(&place, &["create", "--image", "minimal", "--name", "box", "--start"]).run().assert_ok();
    let got = as_nobody(
        &place,
        &["exec", "box", "--", "sh", "-c", &format!("timeout 20 wget -q -O - http://{}:8080/hello.txt", NetnsHost::SERVER)],
    )
    .run();
    assert_eq!(got.stdout, "hello from outside", "{got}");
    assert!(!web.requests().is_empty());
    let data = as_nobody(&place, &["inspect", "--json", "box"]).run().json()["data"].clone();
    assert_eq!(data["sandbox"]["network"]["mode"], "user");
    assert_eq!(data["sandbox"]["started_from"], "template", "{data:#}");
    let enforced = &data["enforced"];
    for held in ["capabilities_empty", "no_new_privs", "seccomp", "read_only"] {
        assert_eq!(enforced[held], true, "{held}: {enforced:#}");
    }
    let pid = data["sandbox"]["process"]["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in
        ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line}:\n{status}");
    }
    assert!(enforced["missing"].as_array().unwrap().iter().any(|m| m["what"] == "own uid"), "what an ordinary user cannot have is said");
    let ran = as_nobody(&place, &["run", "minimal", "--", "echo", "from run"]).run();
    assert_eq!(ran.stdout, "from run\n", "{ran}");
    // Copies, too: of the template's file, and when nobody can open that any more.
    as_nobody(&place, &["exec", "box", "--", "sh", "-c", "echo mine > /dev/shm/note"]).run().assert_ok();
    for name in ["copy", "orphan"] {
        as_nobody(&place, &["fork", "box", "--name", name]).run().assert_ok();
        let read = as_nobody(
            &place,
            &["exec", name, "--", "sh", "-c", "cat /dev/shm/note; hostname; echo 3 > /proc/sys/vm/drop_caches; ls /bin/busybox"],
        )
        .run();
        assert_eq!(read.stdout, format!("mine\n{name}\n/bin/busybox\n"), "{read}");
        as_nobody(&place, &["template", "delete", "--all"]).run().assert_ok();
    }
    as_nobody(&place, &["snapshot", "create", "orphan", "--name", "kept"]).run().assert_ok();
    as_nobody(&place, &["snapshot", "restore", "kept", "--name", "again"]).run().assert_ok();
    assert_eq!(as_nobody(&place, &["exec", "again", "--", "cat", "/dev/shm/note"]).run().stdout, "mine\n");
    as_nobody(&place, &["snapshot", "delete", "kept"]).run().assert_ok();
    as_nobody(&place, &["cleanup", "--all", "--force"]).run().assert_ok();
    oracle.assert_clean();
}
