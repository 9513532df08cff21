//! Registries as people have them: one of their own for short names, one that wants a login and TLS, one behind a proxy; and where logins go.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test starts programs, and fails by panicking")]

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::Place;
use support::registry::{serve, small_layer};
use testkit::{Authority, Ran, Running, TunnelProxy};

const NAME: &str = "127.0.0.1:5000/test/app:1";
/// The registry that wants to know who asks.
const PORT: u16 = 5001;
const CLOSED: &str = "127.0.0.1:5001";
/// The same from outside.
const FAR: &str = "registry.test:5001";
/// The same by another address, which is no loopback's.
const NEAR: &str = "10.77.0.1:5001";
const NEAR_HOST: &str = "10.77.0.1";
/// A word that no file of an image has: those are looked through, too.
const PASSWORD: &str = "vexhunterzq2";
/// What is nowhere to be seen: passwords, and what they look like in headers and files.
const SECRETS: [&str; 5] = ["vexhunterzq", "bWU6dmV4aHVudGVyenEy", "bWU6dmV4aHVudGVyenEz", "bWU6dmV4aHVudGVyenE2", "dmV4aHVudGVyen"];

#[test]
fn a_short_name_means_what_the_default_registry_has_for_every_verb() {
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let _server = serve(&place, &[small_layer(&place, "one")], "{}");
    let at_home = |words: &[&str]| place.envelope(&[&["--set", "registry.default=127.0.0.1:5000"], words].concat());
    let ok = |words: &[&str]| {
        let envelope = at_home(words);
        assert_eq!(envelope["ok"], true, "{words:?}: {envelope:#}");
        envelope["data"].clone()
    };
    assert_eq!(ok(&["image", "pull", "test/app:1"])["image"]["name"], NAME);
    assert_eq!(ok(&["image", "inspect", "test/app:1"])["image"]["image"]["name"], NAME);
    assert_eq!(ok(&["image", "tag", "test/app:1", "other:2"])["image"]["name"], "127.0.0.1:5000/other:2");
    assert_eq!(ok(&["image", "tag", "other:2", "plain"])["image"]["name"], "127.0.0.1:5000/plain:latest");
    assert_eq!(ok(&["image", "history", "test/app:1"])["history"].as_array().map(Vec::len), Some(1));
    let tree = place.scratch().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "x").unwrap();
    assert_eq!(ok(&["image", "import", tree.to_str().unwrap(), "--name", "own:3"])["image"]["name"], "127.0.0.1:5000/own:3");
    // What is written down has its registry: it means the same whatever is settled tomorrow.
    let made = ok(&["create", "--name", "vm-a", "--image", "plain", "--net", "none"]);
    assert_eq!(made["sandbox"]["image"], "127.0.0.1:5000/plain:latest");
    let names = place.smolvm(&["--set", "registry.default=127.0.0.1:5000", "__complete-names", "images"]).run();
    for name in ["test/app:1\n", "other:2\n", "127.0.0.1:5000/other:2\n", "minimal\n"] {
        assert!(names.stdout.contains(name), "{names}");
    }
    // Without it the same name is Docker's, which nobody here has, and of which a variable may say otherwise.
    assert_eq!(place.envelope(&["image", "inspect", "test/app:1"])["error"]["code"], "not_found");
    assert_eq!(place.envelope(&["image", "rm", "other:2"])["error"]["code"], "not_found");
    let inspected = place.smolvm(&["image", "inspect", "other:2", "--json"]).env("SMOLVM_REGISTRY_DEFAULT", "127.0.0.1:5000").run();
    inspected.assert_ok();
    place.ok(&["delete", "vm-a"]);
    ok(&["image", "rm", "plain"]);
    ok(&["image", "rm", "own:3"]);
    assert_eq!(ok(&["image", "rm", "other:2", "test/app:1"])["removed"], serde_json::json!(["127.0.0.1:5000/other:2", NAME]));
    assert_eq!(at_home(&["--set", "registry.default=https://x", "image", "list"])["ok"], true, "a list has no short names");
    assert_eq!(at_home(&["--set", "registry.default=https://x", "image", "rm", "a"])["error"]["code"], "usage_error");
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn logins_are_found_where_podman_and_docker_keep_them_and_are_nowhere_else() {
    testkit::prerequisite::programs(&["docker-registry", "skopeo", "htpasswd"]);
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let closed = Closed::start(&place);
    let mut said = Vec::new();
    let mut pull = |name: &str, variables: &[(&str, &Path)], wanted: &str| {
        let words = ["image", "pull", name, "--json"];
        let command = variables.iter().fold(place.smolvm(&words), |command, (key, value)| command.env(key, value));
        let ran = command.env("SMOLVM_TEST_TRACE", place.scratch().join("trace")).run();
        let envelope = support::envelope(&ran);
        assert_eq!(envelope["error"]["code"].as_str().unwrap_or("ok"), wanted, "{ran}");
        let people = place.smolvm(&words[..3]);
        let people = variables.iter().fold(people, |command, (key, value)| command.env(key, value)).run();
        if wanted == "ok" {
            place.ok(&["image", "rm", name]);
        }
        said.extend([ran, people]);
    };
    let [team, other] = ["team/app:1", "other/app:1"].map(|name| format!("{CLOSED}/{name}"));
    pull(&team, &[], "permission_denied");
    // Podman's file: the longest key that fits, and a wrong one for everything else.
    let podmans = place.scratch().join(".config/containers/auth.json");
    let entry = |password: &str| format!(r#"{{"auth":"{}"}}"#, base64(&place, &format!("me:{password}")));
    let text = format!(r#"{{"auths":{{"{CLOSED}":{},"{CLOSED}/team":{}}}}}"#, entry("vexhunterzq3"), entry(PASSWORD));
    std::fs::write(&podmans, text).unwrap();
    pull(&team, &[], "ok");
    pull(&other, &[], "permission_denied");
    // What `skopeo login` writes, as `podman login` does, and named: no other is looked at.
    let named = closed.log_in(&place);
    pull(&other, &[("REGISTRY_AUTH_FILE", &named)], "ok");
    pull(&other, &[("REGISTRY_AUTH_FILE", &place.scratch().join("gone"))], "internal");
    std::fs::remove_file(&podmans).unwrap();
    // A helper of the user's own, in the user's own environment; docker's file names it.
    let (docker, programs, key) = (place.scratch().join("docker"), place.scratch().join("bin"), place.scratch().join("key"));
    for directory in [&docker, &programs] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::write(docker.join("config.json"), format!(r#"{{"credHelpers":{{"{CLOSED}":"of-tests"}}}}"#)).unwrap();
    std::fs::write(&key, PASSWORD).unwrap();
    let helper = programs.join("docker-credential-of-tests");
    let path = PathBuf::from(format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()));
    let variables: [(&str, &Path); 3] = [("DOCKER_CONFIG", &docker), ("PATH", &path), ("KEY_OF_TESTS", &key)];
    pull(&team, &variables, "missing_dependency");
    let write_helper = |script: &str| {
        std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let answer = r#"printf '{"ServerURL":"%s","Username":"me","Secret":"%s"}' "$server" "$(cat "$KEY_OF_TESTS")""#;
    write_helper(&format!("read -r server; [ \"$1 $server\" = 'get {CLOSED}' ] || exit 1; {answer}"));
    pull(&team, &variables, "ok");
    write_helper("echo credentials not found in native keychain; exit 1");
    pull(&team, &variables, "permission_denied");
    write_helper("cat \"$KEY_OF_TESTS\"; cat \"$KEY_OF_TESTS\" >&2; exit 1");
    pull(&team, &variables, "permission_denied");
    // From outside there is a proxy, which wants a password as well.
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let proxy = TunnelProxy::start(place.net(), to, &format!("Basic {}", base64(&place, "me:vexhunterzq6")));
    let through = |password: &str| PathBuf::from(format!("http://me:{password}@{}", proxy.address()));
    let far = format!("{FAR}/team/app:1");
    let outside = closed.auth_file(&place, FAR);
    pull(&far, &[("REGISTRY_AUTH_FILE", &outside), ("HTTPS_PROXY", &through("vexhunterzq6"))], "ok");
    assert!(!proxy.asked().is_empty() && proxy.asked().iter().all(|asked| asked.path == FAR), "{:?}", proxy.asked());
    pull(&far, &[("REGISTRY_AUTH_FILE", &outside), ("https_proxy", &through("vexhunterzq7"))], "unreachable");
    // Nothing of it was said or kept.
    for ran in &said {
        assert!(SECRETS.iter().all(|secret| !ran.stdout.contains(secret) && !ran.stderr.contains(secret)), "{ran}");
    }
    let files = files_beneath(&[&place.path("state"), &place.path("run"), &place.path("cache"), &place.scratch().join("trace")]);
    assert!(files.iter().any(|file| file.ends_with("state.db")) && files.len() > 5, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let found = SECRETS.iter().find(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        assert_eq!(found, None, "{}", file.display());
    }
    drop(closed);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// What Docker's own desktop leaves in `config.json`, on a machine that has only the file.
#[test]
fn a_keeper_of_logins_that_is_not_installed_is_in_nobodys_way_until_a_login_is_asked_for() {
    testkit::prerequisite::programs(&["docker-registry", "skopeo", "htpasswd"]);
    let place = Place::with_network().owning_images();
    let oracle = place.oracle();
    let closed = Closed::start(&place);
    let docker = place.scratch().join("docker");
    std::fs::create_dir(&docker).unwrap();
    std::fs::write(docker.join("config.json"), r#"{"auths":{},"credsStore":"of-tests"}"#).unwrap();
    let pull = |name: &str| support::envelope(&place.smolvm(&["image", "pull", name, "--json"]).env("DOCKER_CONFIG", &docker).run());
    let open = serve(&place, &[small_layer(&place, "one")], "{}");
    assert_eq!(pull(NAME)["data"]["image"]["name"], NAME);
    drop(open);
    let error = pull(&format!("{CLOSED}/team/app:1"))["error"].clone();
    assert_eq!(error["code"], "missing_dependency", "{error:#}");
    assert!(error["message"].as_str().unwrap().contains("docker-credential-of-tests"), "{error:#}");
    // A login in the same file counts then.
    let entry = base64(&place, &format!("me:{PASSWORD}"));
    let with_entry = format!(r#"{{"auths":{{"{CLOSED}":{{"auth":"{entry}"}}}},"credsStore":"of-tests"}}"#);
    std::fs::write(docker.join("config.json"), with_entry).unwrap();
    assert_eq!(pull(&format!("{CLOSED}/team/app:1"))["ok"], true);
    drop(closed);
    place.ok(&["image", "rm", NAME, &format!("{CLOSED}/team/app:1")]);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

#[test]
fn who_is_near_is_reached_without_the_proxy_if_somebody_says_so() {
    testkit::prerequisite::programs(&["docker-registry", "skopeo", "htpasswd"]);
    let place = Place::with_network().owning_images();
    place.cmd("ip").args(&["address", "add", &format!("{NEAR_HOST}/32"), "dev", "lo"]).run().assert_ok();
    let oracle = place.oracle();
    let closed = Closed::start(&place);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let proxy = TunnelProxy::start(place.net(), to, &format!("Basic {}", base64(&place, "me:vexhunterzq6")));
    let (near, login) = (format!("{NEAR}/team/app:1"), closed.auth_file(&place, NEAR));
    let through = format!("http://me:vexhunterzq6@{}", proxy.address());
    let asked_of_the_proxy = |none: &str| {
        let before = proxy.asked().len();
        let command = place.smolvm(&["image", "pull", &near, "--json"]).env("REGISTRY_AUTH_FILE", &login);
        let envelope = support::envelope(&command.env("HTTPS_PROXY", &through).env("NO_PROXY", none).run());
        assert_eq!(envelope["ok"], true, "{none:?}: {envelope:#}");
        place.ok(&["image", "rm", &near]);
        place.ok(&["image", "prune"]);
        proxy.asked().iter().skip(before).filter(|asked| asked.path == NEAR).count()
    };
    for none in ["", "10.78.0.0/16,far.test"] {
        assert!(asked_of_the_proxy(none) > 0, "{none:?}");
    }
    // By its address, or by the network that it is in.
    for none in [NEAR_HOST, "far.test, 10.77.0.0/24"] {
        assert_eq!(asked_of_the_proxy(none), 0, "{none:?}");
    }
    drop(closed);
    place.ok(&["setup", "--remove"]);
    oracle.assert_clean();
}

/// Debian's `docker-registry` with TLS by an authority of its own and one user, who has put an image there.
struct Closed {
    authority: Authority,
    _server: Running,
}

impl Closed {
    fn start(place: &Place) -> Self {
        let dir = place.scratch().join("closed");
        std::fs::create_dir(&dir).unwrap();
        let authority = Authority::new(&dir);
        let certified = authority.certify("registry", &format!("IP:127.0.0.1,IP:{NEAR_HOST},DNS:registry.test"));
        let users = place.cmd("htpasswd").args(&["-Bbn", "me", PASSWORD]).run();
        std::fs::write(dir.join("users"), &users.stdout).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: :{PORT}\n  tls:\n    certificate: {}\n    key: {}\n\
             auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            dir.join("data").display(),
            certified.certificate.display(),
            certified.key.display(),
            dir.join("users").display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let server = place.cmd("docker-registry").arg("serve").arg(dir.join("config.yml")).spawn();
        // By whose word it is known: as docker and podman have it.
        for host in [CLOSED, FAR, NEAR] {
            let directory = place.scratch().join(".config/containers/certs.d").join(host);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::copy(authority.certificate(), directory.join("ca.crt")).unwrap();
        }
        testkit::until("the registry listens", support::SOON, || {
            place.inside(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))).ok()
        });
        let closed = Self { authority, _server: server };
        closed.fill(place);
        closed
    }

    /// What another registry has, by way of a file.
    fn fill(&self, place: &Place) {
        let server = serve(place, &[small_layer(place, "one")], "{}");
        let file = place.scratch().join("image.tar");
        place.ok(&["image", "pull", NAME]);
        place.ok(&["image", "save", NAME, "--output", file.to_str().unwrap()]);
        place.ok(&["image", "rm", NAME]);
        drop(server);
        for name in ["team/app:1", "other/app:1"] {
            let (from, to) = (format!("oci-archive:{}", file.display()), format!("docker://{CLOSED}/{name}"));
            let copy = ["--insecure-policy", "copy", "--quiet", "--dest-creds", "me:vexhunterzq2", "--dest-cert-dir"];
            place.cmd("skopeo").args(&copy).arg(self.certificates(place)).args(&[&from, &to]).run().assert_ok();
        }
    }

    fn certificates(&self, place: &Place) -> PathBuf {
        assert!(self.authority.certificate().exists());
        place.scratch().join(".config/containers/certs.d").join(CLOSED)
    }

    /// As `podman login` does it; gives the file.
    fn log_in(&self, place: &Place) -> PathBuf {
        let file = place.scratch().join("login.json");
        let words = ["login", "--username", "me", "--password", PASSWORD, "--authfile"];
        let ran: Ran = place.cmd("skopeo").args(&words).arg(&file).arg("--cert-dir").arg(self.certificates(place)).arg(CLOSED).run();
        ran.assert_ok();
        file
    }

    /// The same for another of its names.
    fn auth_file(&self, place: &Place, host: &str) -> PathBuf {
        assert!(self.authority.certificate().exists());
        let file = place.scratch().join("outside.json");
        let text = format!(r#"{{"auths":{{"{host}/team":{{"auth":"{}"}}}}}}"#, base64(place, "me:vexhunterzq2"));
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn base64(place: &Place, text: &str) -> String {
    let ran = place.cmd("sh").args(&["-c", "printf %s \"$0\" | base64 -w0", text]).run();
    ran.assert_ok();
    ran.stdout
}

/// Every file beneath, but for what is shared with other tests by links.
fn files_beneath(roots: &[&Path]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
    while let Some(path) = left.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            found.push(path);
        }
    }
    found
}
