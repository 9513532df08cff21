//! The `debian` image, really built: as root, and as a user without rights.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod image_support;

use std::path::Path;
use std::time::Duration;

use image_support::{Place, job, kill_job_when, shared_cache};
use smolvm_host::image::{BuiltIn, ImageError, Renew, prepare_image, resolve, sweep, verify};
use smolvm_host::proc::tool::Tool;

/// The other process of the tests here; nothing by itself.
#[test]
fn helper() {
    image_support::run_job();
}

fn debugfs(image: &Path, command: &str) -> String {
    Tool::new("debugfs").args(["-R", command]).arg(image).run_ok().unwrap().text()
}

fn check(image: &Path) {
    Tool::new("e2fsck").args(["-fn"]).arg(image).run_ok().unwrap();
    let bin = debugfs(image, "ls -p /usr/bin");
    for program in ["python3", "git", "curl", "ps", "apt-get"] {
        assert!(bin.contains(&format!("/{program}/")), "no {program}");
    }
    assert!(bin.contains("/104755/0/0/su/"), "su is not root's:\n{bin}");
    let root = debugfs(image, "ls -p /");
    for entry in ["041777/0/0/tmp", "040700/0/0/root", "040755/0/0/dev"] {
        assert!(root.contains(entry), "no {entry} in\n{root}");
    }
    let etc = debugfs(image, "ls -p /etc");
    assert!(etc.contains("/100640/0/42/shadow/"), "shadow is not root's and its group's:\n{etc}");
    // What is the host's own stays on the host.
    assert_eq!(debugfs(image, "cat /etc/hostname"), "localhost\n");
    assert_eq!(debugfs(image, "cat /etc/resolv.conf"), "");
    assert_eq!(debugfs(image, "cat /etc/machine-id"), "");
    assert!(!debugfs(image, "ls -p /var/lib/apt/lists").contains("InRelease"));
    assert!(!debugfs(image, "ls -p /var/cache/apt/archives").contains(".deb"));
    let sources = debugfs(image, "cat /etc/apt/sources.list.d/debian.sources");
    assert!(sources.contains("debian-archive-keyring") && !sources.contains("file:"), "{sources}");
    assert!(!debugfs(image, "ls -p /usr/share/man").contains("man1"));
    let dpkg = debugfs(image, "cat /etc/dpkg/dpkg.cfg.d/smolvm-slim");
    assert!(dpkg.contains("path-exclude=/usr/share/man/*") && !dpkg.contains("unsafe"), "{dpkg}");
    assert!(debugfs(image, "ls -p /usr/share/doc/git").contains("copyright"));
}

#[test]
fn built_as_root_or_as_whoever_runs_the_tests() {
    let image = prepare_image(&shared_cache(), BuiltIn::Debian, Renew::IfMissing, &mut |_| {}).unwrap();
    verify(&image).unwrap();
    assert_eq!((image.default_memory_mib, image.env["LANG"].as_str()), (512, "C.UTF-8"));
    assert!(image.size_bytes < 400 << 20, "{} bytes", image.size_bytes);
    check(&image.path);
    let again = prepare_image(&shared_cache(), BuiltIn::Debian, Renew::IfMissing, &mut |progress| panic!("worked again: {progress:?}"));
    assert_eq!(again.unwrap(), image);
}

#[test]
fn built_without_root_everything_still_belongs_to_root() {
    let cache = tempfile::tempdir().unwrap();
    let outcome = job(&Place::Nobody, "debian", cache.path(), "");
    let path = outcome.strip_prefix("ok ").unwrap_or_else(|| panic!("{outcome}"));
    check(Path::new(path));
    assert_eq!(std::fs::read_dir(cache.path().join("tmp")).unwrap().count(), 0, "the tree of a user's build stayed");
}

/// mmdebstrap outlives its builder for a while, until it meets what is no longer there.
fn assert_swept(cache: &Path) {
    testkit::until("nothing is left of a killed build", Duration::from_mins(2), || {
        sweep(cache).unwrap();
        (std::fs::read_dir(cache.join("tmp")).unwrap().count() == 0).then_some(())
    });
}

#[test]
fn a_killed_build_leaves_no_mount_and_nothing_that_looks_finished() {
    let cache = tempfile::tempdir().unwrap();
    let temporary = cache.path().join("tmp");
    kill_job_when("debian", cache.path(), || {
        let mut builds = std::fs::read_dir(&temporary).into_iter().flatten().flatten();
        // A user's tree lies elsewhere until it is finished.
        builds.any(|build| build.path().join("rootfs/usr/bin").exists() || build.path().join("rootfs.tar").exists())
    });
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(cache.path().to_str().unwrap()));
    assert!(matches!(resolve(cache.path(), "debian"), Err(ImageError::NotFound { .. })));
    assert_swept(cache.path());
}

fn check_recipe(outcome: &str) {
    let path = outcome.strip_prefix("ok ").unwrap_or_else(|| panic!("{outcome}"));
    let image = Path::new(path);
    Tool::new("e2fsck").args(["-fn"]).arg(image).run_ok().unwrap();
    let (bin, etc) = (debugfs(image, "ls -p /usr/bin"), debugfs(image, "ls -p /etc"));
    assert!(bin.contains("/104755/0/0/su/"), "su is not root's:\n{bin}");
    assert!(etc.contains("/100640/0/42/shadow/") && etc.contains("/protocols/"), "{etc}");
    assert!(!bin.contains("/git/") && !debugfs(image, "ls -p /var/cache/apt/archives").contains(".deb"));
    // What is the host's own stays on the host.
    assert_eq!([debugfs(image, "cat /etc/hostname"), debugfs(image, "cat /etc/resolv.conf")], ["localhost\n", ""]);
    let sources = debugfs(image, "cat /etc/apt/sources.list.d/debian.sources");
    assert!(sources.contains("debian-archive-keyring") && !debugfs(image, "ls -p /etc/apt").contains("/sources.list/"), "{sources}");
}

#[test]
fn a_recipe_is_made_with_and_without_root() {
    for place in [Place::Host, Place::Nobody] {
        let cache = tempfile::tempdir().unwrap();
        check_recipe(&job(&place, "recipe", cache.path(), ""));
        assert_eq!(std::fs::read_dir(cache.path().join("tmp")).unwrap().count(), 0, "something of a build stayed");
    }
}

#[test]
fn a_killed_recipe_leaves_no_mount_and_nothing_that_looks_finished() {
    let cache = tempfile::tempdir().unwrap();
    let temporary = cache.path().join("tmp");
    kill_job_when("recipe", cache.path(), || {
        let builds = std::fs::read_dir(&temporary).into_iter().flatten().flatten();
        let mut within = builds.flat_map(|build| std::fs::read_dir(build.path()).into_iter().flatten().flatten());
        // A user's tree lies elsewhere until it is finished.
        within.any(|entry| entry.path().join("usr/bin").exists() || entry.file_name() == "rootfs.tar")
    });
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(cache.path().to_str().unwrap()));
    assert!(!cache.path().join("images").exists() && !cache.path().join("blobs").exists());
    assert_swept(cache.path());
}

#[test]
fn without_subordinate_uids_the_reason_is_told() {
    let cache = tempfile::tempdir().unwrap();
    let outcome = job(&Place::NobodyWithoutRange, "debian", cache.path(), "");
    assert!(outcome.contains("NoUserNamespace") && outcome.contains("subuid"), "{outcome}");
}
