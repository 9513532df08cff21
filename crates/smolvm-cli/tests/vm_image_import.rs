//! File systems that become images: from directories, archives and standard input; what is said of them, what is refused, and what goes.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use support::Place;
use support::registry::{minimal_layer, serve, small_layer};

fn over(place: &Place, oracle: &testkit::LeakOracle<'_>) {
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// The root of `minimal`, as a directory and as an archive.
fn root_of_minimal(place: &Place) -> (PathBuf, PathBuf) {
    let tar = minimal_layer(place);
    let at = place.scratch().join("minimal.tar");
    std::fs::write(&at, tar).unwrap();
    (place.scratch().join("minimal-root"), at)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_directory_is_an_image_like_any_other() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let (root, _) = root_of_minimal(&place);
    std::fs::set_permissions(root.join("etc"), PermissionsExt::from_mode(0o751)).unwrap();
    std::fs::hard_link(root.join("etc/passwd"), root.join("etc/passwd.too")).unwrap();
    let _socket = UnixListener::bind(root.join("run.sock")).unwrap();
    let holes = std::fs::File::create(root.join("holes")).unwrap();
    holes.write_all_at(b"far", 1 << 26).unwrap();
    holes.set_len((1 << 26) + 1_000_000).unwrap();
    let args = ["image", "import", text(&root), "--name", "localhost/app:1", "--message", "by hand"];
    let changes = [
        "ENTRYPOINT [\"/bin/sh\",\"-c\"]",
        "CMD [\"echo $WHO; pwd; id -un\"]",
        "ENV WHO=me",
        "WORKDIR /srv/app",
        "USER user",
        "STOPSIGNAL SIGINT",
    ];
    let args: Vec<&str> = args.into_iter().chain(changes.iter().flat_map(|change| ["--change", change])).collect();
    let made = place.ok(&args);
    assert_eq!((made["image"]["name"].as_str(), made["made"].as_bool()), (Some("localhost/app:1"), Some(true)), "{made:#}");
    assert_eq!(made["skipped"], serde_json::json!([{"entry": "run.sock", "why": "a socket"}]));
    // The same tree is the same image, under whatever name.
    let again = place.ok(&args.iter().map(|arg| if *arg == "localhost/app:1" { "localhost/again:1" } else { arg }).collect::<Vec<_>>());
    assert_eq!((again["made"].as_bool(), &again["image"]["digest"]), (Some(false), &made["image"]["digest"]), "{again:#}");
    // It runs as it says; its working directory is nowhere in it.
    assert_eq!(place.said(&["run", "--net", "none", "localhost/app:1"]), "me\n/srv/app\nuser\n");
    let looked =
        ["run", "--net", "none", "-w", "/new/one", "localhost/app:1", "--", "pwd; stat -c %a,%h,%s /etc /etc/passwd /holes | tr '\\n' ' '"];
    let said = place.said(&looked);
    assert!(said.starts_with("/new/one\n751,") && said.contains(",2,") && said.ends_with(",1,68108864 "), "{said}");
    let steps = place.ok(&["image", "history", "localhost/app:1"]);
    let step = &steps["history"][0];
    assert_eq!((step["created_by"].as_str(), step["comment"].as_str()), (Some("smolvm image import"), Some("by hand")), "{steps:#}");
    let layer = step["layer"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    // Others read it, its holes too.
    let layer = place.path("cache/blobs").join(layer);
    assert!(std::fs::metadata(&layer).unwrap().len() < 8 << 20, "the holes are in it");
    place.cmd("tar").arg("-C").arg(place.scratch()).arg("-xf").arg(&layer).arg("holes").run().assert_ok();
    place.cmd("cmp").arg(place.scratch().join("holes")).arg(root.join("holes")).run().assert_ok();
    testkit::prerequisite::programs(&["skopeo"]);
    let saved = place.scratch().join("saved.tar");
    place.ok(&["image", "save", "localhost/app:1", "-o", text(&saved)]);
    let seen = place.cmd("skopeo").args(&["inspect", "--config", &format!("oci-archive:{}", saved.display())]).run();
    assert!(seen.assert_ok().stdout.contains("\"StopSignal\": \"SIGINT\""), "{seen}");
    place.ok(&["template", "delete", "--all"]);
    over(&place, &oracle);
}

#[test]
fn archives_are_taken_plain_and_packed_and_from_standard_input() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    std::fs::write(place.scratch().join("rootfs.tar"), small_layer(&place, "one")).unwrap();
    let tar = place.scratch().join("rootfs.tar");
    let sh = |script: &str| place.cmd("sh").args(&["-euc", &format!("cd {}; {script}", place.scratch().display())]).run();
    sh("gzip -nk rootfs.tar; zstd -q rootfs.tar; xz -k rootfs.tar; mkdir -p broken; head -c 700 rootfs.tar > broken/cut.tar").assert_ok();
    let named = place.ok(&["image", "import", text(&tar)]);
    assert_eq!(named["image"]["name"], "localhost/rootfs:latest");
    let digest = |args: &[&str]| place.ok(&[&["image", "import"], args].concat())["image"]["digest"].as_str().unwrap().to_owned();
    let [gzip, zstd] = ["gz", "zst"].map(|packed| format!("{}.{packed}", tar.display()));
    assert_eq!(digest(&[&gzip, "--name", "localhost/a:1"]), digest(&[&gzip]), "the name is no part of it");
    digest(&[&zstd, "--name", "localhost/b:1"]);
    let bin = testkit::prerequisite::smolvm_bin();
    let piped = sh(&format!("gzip -dc rootfs.tar.gz | {} image import - --name localhost/c:1 --quiet", bin.display()));
    assert_eq!(piped.assert_ok().stdout, "localhost/c:1\n");
    assert_eq!(place.ok(&["image", "inspect", "localhost/c:1"])["image"]["image"]["digest"], named["image"]["digest"]);
    // What shares layers says so.
    let sizes = |name: &str| {
        let image = place.ok(&["image", "inspect", name])["image"]["image"].clone();
        ["size_bytes", "own_bytes", "shared_bytes"].map(|key| image[key].as_u64().unwrap())
    };
    let [size, own, shared] = sizes("localhost/c:1");
    let layer = std::fs::metadata(&tar).unwrap().len();
    assert_eq!((own, shared), (size + layer, 0), "two names of one image share nothing with another");
    digest(&[text(&tar), "--name", "localhost/d:1", "--change", "CMD [\"x\"]"]);
    assert_eq!(sizes("localhost/c:1"), [size, size, layer]);
    // What is none is told from what is wrong, with the way out.
    let refused = |args: &[&str], code: &str, word: &str| {
        let told = place.envelope(&[&["image", "import"], args].concat());
        assert!(told["error"]["code"] == code && told["error"].to_string().contains(word), "{told:#}");
    };
    refused(&[&format!("{}.xz", tar.display()), "--name", "x:1"], "usage_error", "xz -dc");
    refused(&["-"], "usage_error", "--name");
    refused(&["/nonexistent", "--name", "x:1"], "not_found", "nonexistent");
    refused(&[text(&place.scratch().join("broken/cut.tar")), "--name", "x:1"], "refused", "ends within");
    refused(&[text(&tar), "--name", "minimal"], "refused", "makes itself");
    refused(&[text(&tar), "--change", "RUN true"], "usage_error", "Dockerfile");
    let saved = place.scratch().join("saved.tar");
    place.ok(&["image", "save", "localhost/c:1", "-o", text(&saved)]);
    refused(&[text(&saved)], "usage_error", "image load");
    over(&place, &oracle);
}

#[test]
fn what_is_hostile_is_refused_by_name_and_nothing_of_it_stays() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let rootfs = place.scratch().join("rootfs");
    std::fs::create_dir(&rootfs).unwrap();
    std::fs::write(place.scratch().join("file"), "x").unwrap();
    // A link out of the directory is a link in the image, and nothing that is followed.
    symlink("/etc", rootfs.join("out")).unwrap();
    std::fs::write(rootfs.join(".wh.motd"), "").unwrap();
    let tar = place.scratch().join("hostile.tar");
    let pack = ["-P", "--transform=s,^file,../../etc/cron.d/evil,", "-cf"];
    place.cmd("tar").arg("-C").arg(place.scratch()).args(&pack).arg(&tar).arg("file").run().assert_ok();
    for (path, name) in [(&tar, "../../etc/cron.d/evil"), (&rootfs, ".wh.motd")] {
        let told = place.smolvm(&["image", "import", text(path), "--name", "localhost/x:1"]).run();
        assert!(told.code() == Some(1) && told.stderr.contains(name), "{told}");
    }
    assert!(!place.path("cache/images/by-reference").exists() && !place.path("cache/blobs").exists(), "nothing of it has a name");
    std::fs::remove_file(rootfs.join(".wh.motd")).unwrap();
    let layer = place.ok(&["image", "import", text(&rootfs), "--name", "localhost/x:1"])["image"]["own_bytes"].as_u64().unwrap();
    assert!(layer < 1 << 20, "the link was followed");
    over(&place, &oracle);
}

#[test]
fn what_nobody_needs_goes_and_the_rest_stays() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let server = serve(&place, &[small_layer(&place, "one"), small_layer(&place, "two")], "{}");
    let name = "127.0.0.1:5000/test/app:1";
    place.ok(&["image", "pull", name]);
    place.ok(&["image", "tag", name, "localhost/kept:1"]);
    drop(server);
    let (root, tar) = root_of_minimal(&place);
    place.ok(&["image", "import", text(&root), "--name", "localhost/run:1"]);
    place.ok(&["image", "import", text(&tar), "--name", "localhost/used:1"]);
    place.ok(&["create", "--name", "vm-a", "--image", "localhost/used:1", "--net", "none"]);
    // A template of it stays.
    place.ok(&["create", "--name", "vm-b", "--image", "localhost/run:1", "--net", "none", "--start"]);
    let made = place.ok(&["inspect", "vm-b"]);
    assert!(made.to_string().contains("\"started_from\":\"template\""), "{made:#}");
    place.ok(&["delete", "vm-b"]);
    let names = || {
        let listed = place.ok(&["image", "list"]);
        listed["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let gone = |report: &serde_json::Value, part: &str| {
        let removed = report["removed"].as_array().unwrap();
        removed.iter().filter(|one| one["part"] == part).map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let before = names();
    // All of them have a name.
    assert_eq!(place.ok(&["image", "prune"])["removed"], serde_json::json!([]));
    // Another image under the name of one.
    place.ok(&["image", "import", text(&tar), "--name", "localhost/run:1", "--change", "CMD [\"x\"]"]);
    let would = place.ok(&["image", "prune", "--dry-run"]);
    assert_eq!((gone(&would, "image").len(), gone(&would, "template").len()), (1, 1), "{would:#}");
    assert_eq!(place.ok(&["image", "prune", "--until", "1h"])["removed"], serde_json::json!([]));
    let did = place.ok(&["image", "prune"]);
    assert_eq!((&did["removed"], &did["freed_bytes"]), (&would["removed"], &would["freed_bytes"]));
    assert!(did["freed_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(names(), before);
    let all = place.ok(&["image", "prune", "--all", "--dry-run"]);
    let all_did = place.ok(&["image", "prune", "--all"]);
    assert_eq!(all["removed"], all_did["removed"]);
    let mut went = gone(&all_did, "image");
    went.sort();
    assert_eq!(went, [name, "localhost/run:1"], "one of several names is told");
    let own: Vec<String> = before.iter().filter(|name| !name.contains('/')).cloned().collect();
    assert_eq!(names(), [&own[..], &["localhost/used:1".to_owned()]].concat());
    // What stays is whole.
    let saved = place.ok(&["image", "save", "localhost/used:1", "-o", text(&place.scratch().join("x.tar"))]);
    assert!(saved["bytes"].as_u64().unwrap() > 1 << 20, "{saved:#}");
    place.ok(&["delete", "vm-a"]);
    over(&place, &oracle);
}
