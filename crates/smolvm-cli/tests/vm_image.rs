//! Images of a registry: pulled, run as their authors mean it, run otherwise, forked, and gone.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use support::Place;
use support::registry::{DOCKER, minimal_layer, serve, serve_as};

const NAME: &str = "127.0.0.1:5000/test/app:1";
const RUN: &str = r#"{"Entrypoint":["/bin/sh","-c"],"Cmd":["echo $GREETING; id -un; pwd"],"Env":["PATH=/bin:/usr/bin","GREETING=from the image","odd.name=x"],
    "WorkingDir":"/etc","User":"user","Labels":{"l":"v"},"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},"StopSignal":"SIGQUIT"}"#;

#[test]
fn an_image_of_a_registry_is_a_sandbox_like_any_other() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let server = serve(&place, &[minimal_layer(&place)], RUN);
    // A run pulls what is not here, and a second one asks nobody.
    assert_eq!(place.said(&["run", "--net", "none", NAME]), "from the image\nuser\n/etc\n");
    let asked = server.requests().len();
    assert_eq!(place.said(&["run", "--net", "none", NAME, "--", "id -u; echo $0"]), "1000\n/bin/sh\n");
    assert_eq!(server.requests().len(), asked);
    let other = [
        "run",
        "--net",
        "none",
        "--entrypoint",
        "",
        "-u",
        "root",
        "-w",
        "/",
        "-e",
        "GREETING=mine",
        NAME,
        "--",
        "sh",
        "-c",
        "echo $GREETING; id -un; pwd",
    ];
    assert_eq!(place.said(&other), "mine\nroot\n/\n");
    // A sandbox that stays has them in every command, and is a fork of a template.
    let made = place.ok(&["create", "--name", "vm-a", "--image", NAME, "--net", "none", "--start"]);
    assert_eq!((made["sandbox"]["image"].as_str(), made["sandbox"]["started_from"].as_str()), (Some(NAME), Some("template")));
    assert_eq!(place.said(&["exec", "vm-a", "--", "sh", "-c", "echo $GREETING; id -un; pwd"]), "from the image\nuser\n/etc\n");
    assert_eq!(place.said(&["exec", "-u", "0", "-w", "/tmp", "vm-a", "--", "sh", "-c", "id -un; pwd"]), "root\n/tmp\n");
    // What is needed cannot go, and says by whom.
    let refused = place.envelope(&["image", "rm", NAME]);
    assert_eq!(refused["error"]["code"], "refused", "{refused:#}");
    place.ok(&["delete", "vm-a"]);
    let refused = place.envelope(&["image", "rm", NAME]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("needed by the template"), "{refused:#}");
    place.ok(&["template", "delete", "--all"]);
    let removed = place.ok(&["image", "rm", NAME]);
    assert!(removed["freed_bytes"].as_u64().unwrap() > 1 << 20, "{removed:#}");
    let left =
        std::fs::read_dir(place.path("cache/blobs")).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().len() == 64).count();
    assert_eq!(left, 0, "its blobs are gone with it");
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// A registry that is out of reach, and whose mirror is on this machine.
#[test]
fn a_mirror_is_asked_first_and_one_without_an_answer_is_passed_over() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let layers = [support::registry::small_layer(&place, "one")];
    let server = serve(&place, &layers, RUN);
    let pull = |mirror: &str, name: &str| place.envelope(&["--set", &format!("mirror.{mirror}"), "image", "pull", name]);
    let through = pull("far.invalid=127.0.0.1:5000", "far.invalid/test/app:1");
    assert_eq!(through["data"]["image"]["name"], "far.invalid/test/app:1", "{through:#}");
    assert!(!server.requests().is_empty());
    // Nobody listens at this one: the registry itself is asked.
    let past = pull("127.0.0.1:5000=127.0.0.1:1", NAME);
    assert_eq!(past["data"]["image"]["digest"], through["data"]["image"]["digest"], "{past:#}");
    place.ok(&["image", "rm", NAME, "far.invalid/test/app:1"]);
    place.ok(&["image", "prune"]);
    // A mirror that knows the image and has none of its parts, and one that has others in their place.
    drop(server);
    let image = support::registry::files(&place, support::registry::OCI, &layers, RUN);
    let _server = support::registry::serve_files(&place, support::registry::PORT, &image);
    let is_manifest = |path: &str| path.contains("/manifests/");
    let bare: Vec<_> = image.iter().filter(|(path, _)| is_manifest(path)).cloned().collect();
    let wrong = |(path, bytes): &(String, Vec<u8>)| {
        let bytes = if is_manifest(path) { bytes.clone() } else { bytes.iter().map(|byte| byte ^ 1).collect() };
        (path.clone(), bytes)
    };
    let lies: Vec<_> = image.iter().map(wrong).collect();
    for (port, files) in [(5002, bare), (5003, lies)] {
        let mirror = support::registry::serve_files(&place, port, &files);
        let pulled = pull(&format!("127.0.0.1:5000=127.0.0.1:{port}"), NAME);
        assert_eq!(pulled["data"]["image"]["digest"], through["data"]["image"]["digest"], "{pulled:#}");
        assert_eq!(pulled["data"]["made"], true);
        let asked = mirror.requests();
        assert!(["/manifests/", "/blobs/"].iter().all(|kind| asked.iter().any(|asked| asked.path.contains(kind))), "{asked:?}");
        place.ok(&["image", "rm", NAME]);
        place.ok(&["image", "prune"]);
    }
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn names_come_and_go_and_the_schema_holds() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let server = serve(&place, &[support::registry::small_layer(&place, "one")], RUN);
    let pulled = place.ok(&["image", "pull", NAME]);
    assert_eq!((pulled["made"].as_bool(), pulled["image"]["name"].as_str()), (Some(true), Some(NAME)));
    let asked = server.requests().len();
    let again = place.ok(&["image", "pull", NAME]);
    assert_eq!((again["made"].as_bool(), &again["image"]["digest"]), (Some(false), &pulled["image"]["digest"]));
    assert_eq!(server.requests().len(), asked + 1, "only the manifest is asked for");
    place.ok(&["image", "tag", NAME, "localhost/other:2"]);
    let names: Vec<String> =
        place.ok(&["image", "list"])["images"].as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect();
    assert!([NAME, "localhost/other:2", "minimal"].iter().all(|name| names.iter().any(|n| n == name)), "{names:?}");
    let details = place.ok(&["image", "inspect", "localhost/other:2"]);
    let run = &details["image"]["origin"]["run"];
    assert_eq!(
        (run["stop_signal"].as_str(), run["exposed_ports"][0].as_str(), run["labels"]["l"].as_str()),
        (Some("SIGQUIT"), Some("80/tcp"), Some("v"))
    );
    // The image goes with its last name.
    assert_eq!(place.ok(&["image", "rm", NAME])["freed_bytes"], 0);
    assert!(place.ok(&["image", "rm", "localhost/other:2"])["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(place.envelope(&["image", "inspect", NAME])["error"]["code"], "not_found");
    // Those of this host are made and removed otherwise; nobody there is said at once.
    assert_eq!(place.envelope(&["image", "rm", "minimal"])["error"]["code"], "refused");
    assert_eq!(place.envelope(&["image", "pull", "minimal"])["error"]["code"], "usage_error");
    drop(server);
    let nobody = place.envelope(&["image", "pull", NAME]);
    assert_eq!((nobody["ok"].as_bool(), nobody["error"]["code"].as_str()), (Some(false), Some("unreachable")), "{nobody:#}");
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// A disk that changed a byte of each of them, and an image that has to be made of them once more, or is there.
#[test]
fn damaged_blobs_come_once_more() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let _server = serve(&place, &[support::registry::small_layer(&place, "one")], RUN);
    let pulled = place.ok(&["image", "pull", NAME]);
    for names in ["by-manifest", "by-reference"] {
        std::fs::remove_dir_all(place.path("cache/images").join(names)).unwrap();
    }
    let is_blob = |entry: &std::fs::DirEntry| entry.file_name().len() == 64;
    let blobs = || std::fs::read_dir(place.path("cache/blobs")).unwrap().map(Result::unwrap).filter(is_blob);
    let damage = || {
        for blob in blobs() {
            let mut bytes = std::fs::read(blob.path()).unwrap();
            bytes[0] ^= 1;
            std::fs::write(blob.path(), bytes).unwrap();
        }
    };
    let all_are_whole = || {
        assert_eq!(blobs().count(), 3);
        for blob in blobs() {
            let sum = place.cmd("sha256sum").arg(blob.path()).run();
            assert_eq!(sum.assert_ok().stdout.split_whitespace().next().unwrap(), blob.file_name().to_str().unwrap());
        }
    };
    damage();
    let again = place.ok(&["image", "pull", NAME]);
    assert_eq!((again["made"].as_bool(), &again["image"]["digest"]), (Some(true), &pulled["image"]["digest"]));
    all_are_whole();
    place.ok(&["image", "rm", NAME]);
    // Nobody but the next import has those of one.
    let tar = place.scratch().join("imported.tar");
    std::fs::write(&tar, support::registry::small_layer(&place, "two")).unwrap();
    let import = || place.ok(&["image", "import", tar.to_str().unwrap(), "--name", "localhost/two:1"])["made"].as_bool();
    assert_eq!(import(), Some(true));
    damage();
    assert_eq!(import(), Some(false));
    all_are_whole();
    place.ok(&["image", "rm", "localhost/two:1"]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn what_is_saved_is_read_by_others_and_what_others_save_is_loaded() {
    testkit::prerequisite::programs(&["skopeo"]);
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let server = serve(&place, &[support::registry::small_layer(&place, "one"), support::registry::small_layer(&place, "two")], RUN);
    let pulled = place.ok(&["image", "pull", NAME]);
    drop(server);
    let (ours, theirs) = (place.scratch().join("ours.tar"), place.scratch().join("theirs.tar"));
    let [ours_text, theirs_text] = [&ours, &theirs].map(|path| path.to_str().unwrap());
    assert!(place.ok(&["image", "save", NAME, "-o", ours_text])["bytes"].as_u64().unwrap() > 10_000);
    let copied = place
        .cmd("skopeo")
        .args(&["--insecure-policy", "copy", &format!("oci-archive:{ours_text}"), &format!("oci-archive:{theirs_text}:x")])
        .run();
    copied.assert_ok();
    place.ok(&["image", "rm", NAME]);
    // Ours says what it is called, and comes to the same bytes; theirs has a tag alone.
    let loaded = place.ok(&["image", "load", ours_text]);
    assert_eq!((&loaded["image"]["name"], &loaded["image"]["digest"]), (&pulled["image"]["name"], &pulled["image"]["digest"]));
    assert_eq!(place.envelope(&["image", "load", theirs_text])["error"]["code"], "usage_error");
    let theirs = place.ok(&["image", "load", theirs_text, "--name", "localhost/theirs:1"]);
    assert_eq!(theirs["image"]["name"], "localhost/theirs:1");
    // A blob that is not what its name says.
    let mut bytes = std::fs::read(&ours).unwrap();
    let at = bytes.windows(7).position(|window| window == b"ustar  ").unwrap();
    let blob = bytes.windows(4).rposition(|window| window == b"two\0").unwrap();
    assert!(blob > at);
    bytes[blob + 1] ^= 1;
    std::fs::write(&ours, bytes).unwrap();
    place.ok(&["image", "rm", NAME, "localhost/theirs:1"]);
    assert_eq!(place.envelope(&["image", "load", ours_text])["error"]["code"], "refused");
    assert_eq!(place.envelope(&["image", "save", "minimal", "-o", ours_text])["error"]["code"], "unsupported");
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// Its manifest stays as it is, for its digest is its name; `skopeo` makes one of OCI's of it, which is another image.
#[test]
fn an_image_of_docker_s_second_schema_is_saved_for_others() {
    testkit::prerequisite::programs(&["skopeo"]);
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let server = serve_as(&place, DOCKER, &[support::registry::small_layer(&place, "one")], RUN);
    let pulled = place.ok(&["image", "pull", NAME]);
    drop(server);
    let file = |name: &str| place.scratch().join(name).to_str().unwrap().to_owned();
    let (ours, theirs) = (file("ours.tar"), file("theirs.tar"));
    place.ok(&["image", "save", NAME, "-o", &ours]);
    let skopeo = |words: &[&str]| place.cmd("skopeo").arg("--insecure-policy").args(words).run();
    let raw = skopeo(&["inspect", "--raw", &format!("oci-archive:{ours}")]);
    let manifest: serde_json::Value = serde_json::from_str(&raw.assert_ok().stdout).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    skopeo(&["copy", &format!("oci-archive:{ours}"), &format!("oci-archive:{theirs}:x")]).assert_ok();
    place.ok(&["image", "rm", NAME]);
    let again = place.ok(&["image", "load", &ours]);
    assert_eq!((&again["image"]["name"], &again["image"]["digest"]), (&pulled["image"]["name"], &pulled["image"]["digest"]));
    let converted = place.ok(&["image", "load", &theirs, "--name", "localhost/theirs:1"]);
    assert_eq!(converted["image"]["name"], "localhost/theirs:1");
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn a_hostile_layer_is_refused_by_the_name_of_its_entry_and_leaves_nothing_with_a_name() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let tar = place.scratch().join("hostile.tar");
    std::fs::write(place.scratch().join("file"), "x").unwrap();
    let packed = place
        .cmd("tar")
        .arg("-C")
        .arg(place.scratch())
        .args(&["-P", "--transform=s,^file,../../etc/cron.d/evil,", "-cf"])
        .arg(&tar)
        .arg("file")
        .run();
    packed.assert_ok();
    let _server = serve(&place, &[std::fs::read(&tar).unwrap()], "{}");
    let refused = place.envelope(&["image", "pull", NAME]);
    assert_eq!(refused["error"]["code"], "refused", "{refused:#}");
    let told = place.smolvm(&["image", "pull", NAME]).run();
    assert!(told.stderr.contains("../../etc/cron.d/evil"), "{told}");
    assert!(!place.path("cache/images/by-reference").exists() && !std::path::Path::new("/etc/cron.d/evil").exists());
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}
