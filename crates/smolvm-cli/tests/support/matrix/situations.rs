//! The situations in which the verbs of the matrix have something to do: places, and what is in them before.

use super::super::{Place, registry};

pub(super) fn nothing(_: &Place) {}

/// What the registry of [`offered`] has.
pub(super) const OFFERED: &str = "127.0.0.1:5000/test/app:1";

/// Images are pulled, named and removed: they are this place's own.
pub(super) fn with_own_images() -> Place {
    Place::with_network().owning_images()
}

/// A registry has an image of two layers.
pub(super) fn offered(place: &Place) {
    offer(place);
}

/// It listens as long as the test runs; each place has a loopback of its own. Gives what it has, the first layer first.
fn offer(place: &Place) -> Vec<(String, Vec<u8>)> {
    let layers = ["one", "two"].map(|name| registry::small_layer(place, name));
    let files = registry::files(place, registry::OCI, &layers, "{}");
    std::mem::forget(registry::serve_files(place, registry::PORT, &files));
    files
}

/// It was offered, and a layer is here already, as long as it should be and with another content.
pub(super) fn offered_and_damaged(place: &Place) {
    let (path, layer) = offer(place).into_iter().next().unwrap();
    let (_, digest) = path.rsplit_once(':').unwrap();
    let blobs = place.path("cache/blobs");
    std::fs::create_dir(&blobs).unwrap();
    std::fs::write(blobs.join(digest), vec![b'?'; layer.len()]).unwrap();
}

pub(super) fn pulled(place: &Place) {
    offered(place);
    place.smolvm(super::IMAGE_PULL.verb).run().assert_ok();
}

/// It was saved, and is here no more.
pub(super) fn in_a_file(place: &Place) {
    pulled(place);
    place.smolvm(super::IMAGE_SAVE.verb).run().assert_ok();
    place.smolvm(super::IMAGE_RM.verb).run().assert_ok();
}

/// The root of a small file system lies where the verbs run.
pub(super) fn rooted(place: &Place) {
    std::fs::create_dir_all(place.scratch().join("rootfs/etc")).unwrap();
    std::fs::write(place.scratch().join("rootfs/etc/motd"), "hello\n").unwrap();
}

pub(super) fn made(place: &Place) {
    place.create("vm-a", &[]);
}

pub(super) fn running(place: &Place) {
    place.boot(&["vm-a"]);
}

/// It runs, and one who copied it was killed when an empty layer lay beside its disk.
pub(super) fn running_with_a_stray_layer(place: &Place) {
    running(place);
    let copy = place.smolvm(super::FORK.verb).env("SMOLVM_TEST_TRACE", place.scratch().join("trace-before"));
    assert_eq!(copy.env("SMOLVM_TEST_FAULT", "kill@after:disk-layer").run().signal(), Some(9));
}

/// Its disk has as many layers as it can have; all are empty.
pub(super) fn deep(place: &Place) {
    place.create("vm-a", &[]);
    for number in 1..8 {
        let layer = place.path("state/sandboxes/vm-a").join(format!("data.img.{number}"));
        let made = place.cmd("qemu-img").args(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=16k"]).arg(layer.to_str().unwrap());
        made.arg("8G").run().assert_ok();
    }
    place.boot_made(&["vm-a"]);
}

/// The same, and a snapshot reads all of them. It does not run.
pub(super) fn deep_and_saved(place: &Place) {
    static FIRST: std::sync::Once = std::sync::Once::new();
    deep(place);
    stop_and_save(place, &FIRST);
}

/// One that has run and does not run, whose disk a snapshot reads.
pub(super) fn used_and_saved(place: &Place) {
    static FIRST: std::sync::Once = std::sync::Once::new();
    running(place);
    stop_and_save(place, &FIRST);
}

fn stop_and_save(place: &Place, first: &std::sync::Once) {
    let stop = || {
        place.smolvm(&["stop", "vm-a"]).run().assert_ok();
    };
    stop();
    // The first start with a disk that was used makes a template, which is for other scenarios to break.
    first.call_once(|| {
        place.smolvm(&["start", "vm-a"]).run().assert_ok();
        stop();
    });
    place.smolvm(&["snapshot", "create", "vm-a", "--name", "one"]).run().assert_ok();
}

pub(super) fn paused(place: &Place) {
    running(place);
    place.smolvm(&["pause", "vm-a"]).run().assert_ok();
}

pub(super) fn saved(place: &Place) {
    made(place);
    place.smolvm(&["snapshot", "create", "vm-a", "--name", "one"]).run().assert_ok();
}

/// A machine that was saved, and is gone.
pub(super) fn saved_machine(place: &Place) {
    place.create("vm-a", &[]);
    place.boot_made(&["vm-a"]);
    place.smolvm(&["snapshot", "create", "vm-a", "--name", "one"]).run().assert_ok();
    place.smolvm(&["delete", "vm-a"]).run().assert_ok();
}

/// Whether there is a template decides what a start does; here there is one.
pub(super) fn with_template(place: &Place) {
    place.smolvm(&["template", "build", "minimal", "--net", "none", "--quiet"]).run().assert_ok();
}

pub(super) fn stale(place: &Place) {
    place.seed(&["vm-a", "vm-b"]);
    // What an earlier cleaner left that was killed.
    std::fs::create_dir_all(place.path("state/trash/gone.0123456789abcdef/deep")).unwrap();
    std::fs::write(place.path("state/locks/gone.lock"), "").unwrap();
}

/// Everything is there but the ledger.
pub(super) fn lost(place: &Place) {
    place.seed(&["vm-a"]);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(place.path("state").join(file)).ok();
    }
}

/// Files of a sandbox that no record knows any more, where a new one wants to be.
pub(super) fn occupied(place: &Place) {
    made(place);
    place.smolvm(&["delete", "vm-a"]).run().assert_ok();
    std::fs::create_dir_all(place.path("state/sandboxes/vm-a")).unwrap();
    std::fs::write(place.path("state/sandboxes/vm-a/owner"), format!("{}\n", place.mark("vm-a"))).unwrap();
}

pub(super) fn damaged(place: &Place) {
    place.seed(&["vm-a"]);
    std::fs::write(place.path("state/state.db"), vec![b'?'; 8192]).unwrap();
}

pub(super) fn hostile(place: &Place) {
    made(place);
    super::super::rows::insert_like(place, "vm-a", "../..");
}

/// One waits in the pool.
pub(super) fn pooled(place: &Place) {
    place.smolvm(&[&POOL[..], &["pool", "fill", "--quiet"]].concat()).run().assert_ok();
}

/// One of `minimal` without a network shall wait.
const POOL: [&str; 4] = ["--set", "pool.minimal=1", "--set", "sandbox.net=none"];

/// The empty disk that others are copied from is still to be made.
pub(super) fn without_disks() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "images"], &[]);
    place
}

/// What is measured of the host is still to be measured, but there is a template.
pub(super) fn without_measurements() -> Place {
    let place = Place::with_network();
    place.smolvm(&["template", "build", "minimal", "--net", "tap", "--quiet"]).run().assert_ok();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &["templates"]);
    place
}

/// There is no template yet.
pub(super) fn without_templates() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &[]);
    place
}

/// There is one, and it is this place's own.
pub(super) fn own_template() -> Place {
    let place = Place::with_network();
    with_template(&place);
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &["templates"]);
    place
}

/// One, an image and an initramfs that nobody needs, and what a killed removal left.
pub(super) fn littered() -> Place {
    let place = own_template();
    for part in ["images", "initramfs"] {
        let (shared, own) = (testkit::prerequisite::test_home().join("cache").join(part), place.path("cache").join(part));
        let current = std::fs::read_to_string(shared.join("current")).unwrap_or_default();
        std::fs::remove_file(&own).unwrap();
        std::fs::create_dir(&own).unwrap();
        // Of what earlier builds of the agent left there is any number; here is only what is needed, and one more.
        let needed = |name: &str| part == "images" || name == "current" || name == current.trim().trim_start_matches("sha256:");
        for entry in std::fs::read_dir(shared).unwrap().flatten().filter(|entry| needed(&entry.file_name().to_string_lossy())) {
            std::os::unix::fs::symlink(entry.path(), own.join(entry.file_name())).unwrap();
        }
        let unused = own.join("f".repeat(64));
        std::fs::create_dir(&unused).unwrap();
        std::fs::write(unused.join("content"), vec![1; 8192]).unwrap();
    }
    std::fs::create_dir_all(place.path("state/trash/gone.0123456789abcdef/deep")).unwrap();
    place
}

/// There is nothing but a mirror.
pub(super) fn bare() -> Place {
    let place = Place::with_mirror();
    place.own_cache(&[], &[]);
    place
}

/// All is there but one image, and so is what a killed maker of a kernel left. The kernel is the mirror's small one, which
/// every `setup` reads to its end.
pub(super) fn without_debian() -> Place {
    let place = bare();
    place.smolvm(super::SETUP.verb).run().assert_ok();
    std::fs::create_dir_all(place.path("cache/tmp/kernel.0123456789abcdef/tree")).unwrap();
    place
}

/// A cache with a kernel in it, the lists of packages, and what was measured of the host.
pub(super) fn without_images() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels"], &["apt", "host.json"]);
    place
}
