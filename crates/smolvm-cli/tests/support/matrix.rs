//! Every verb, every change it makes of host and ledger, and what can go wrong there.
//!
//! ```text
//!   Scenario ── reference run ──► passages: the points in the order in which the verb passes them
//!                                    │
//!            for each of them:   prepare ─► the verb, armed there ─► list, next, cleanup --all --force ─► oracle
//! ```
//!
//! The points are not listed here: they are what the product passes ([`smolvm_model::effect`]), in the
//! product's own order. A new effect is in the matrix by existing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use smolvm_model::effect::{Breach, Effect, Missing, Point, breaches};
use testkit::Ran;

use super::{BOOT, Cleaned, Place, registry};

/// A verb in the situation in which it has something to do.
pub(crate) struct Scenario {
    /// For people.
    pub(crate) name: &'static str,
    /// A place, without anything in it.
    pub(crate) place: fn() -> Place,
    /// What is there before the verb.
    pub(crate) prepare: fn(&Place),
    /// The verb.
    pub(crate) verb: &'static [&'static str],
    /// What somebody does next who does not know that something went wrong.
    pub(crate) next: &'static [&'static str],
    /// What it does without a record, because no record can know of it.
    pub(crate) unrecorded: &'static [Effect],
    /// What it says when it comes to the same end in another way.
    pub(crate) instead: Option<&'static str>,
}

/// One of several passages of a point in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Passage {
    pub(crate) point: Point,
    /// From 1, over all processes of the verb.
    pub(crate) nth: usize,
}

impl Passage {
    /// The order that makes `what` happen here.
    pub(crate) fn order(&self, what: &str) -> String {
        format!("{what}@{}#{}", self.point, self.nth)
    }
}

impl Scenario {
    /// Where the verb's points are written.
    pub(crate) fn trace(place: &Place) -> PathBuf {
        place.scratch().join("trace")
    }

    /// Runs the verb, with this to go wrong, or nothing.
    pub(crate) fn run(&self, place: &Place, order: Option<&str>) -> Ran {
        let cmd = place.smolvm(self.verb).env("SMOLVM_TEST_TRACE", Self::trace(place)).timeout(PATIENCE);
        match order {
            Some(order) => cmd.env("SMOLVM_TEST_FAULT", order).run(),
            None => cmd.run(),
        }
    }

    /// The points passed since the last look, with the process of each.
    pub(crate) fn passed(&self, place: &Place) -> Vec<(i32, Point)> {
        let text = std::fs::read_to_string(Self::trace(place)).unwrap_or_default();
        std::fs::remove_file(Self::trace(place)).ok();
        let line = |line: &str| {
            let (pid, point) = line.split_once(' ')?;
            Some((pid.parse().ok()?, point.parse().ok()?))
        };
        text.lines().map(|l| line(l).unwrap_or_else(|| panic!("{}: no line of a trace: {l:?}", self.name))).collect()
    }

    /// Runs the verb with nothing going wrong, and gives every passage in order.
    pub(crate) fn reference(&self, place: &Place) -> Vec<Passage> {
        (self.prepare)(place);
        let ran = self.run(place, None);
        let points: Vec<Point> = self.passed(place).into_iter().map(|(_, point)| point).collect();
        assert!(!points.is_empty(), "{}: nothing was passed; is this a build with debug assertions?\n{ran}", self.name);
        let mut count: BTreeMap<Point, usize> = BTreeMap::new();
        let numbered = points.into_iter().map(|point| {
            let nth = count.entry(point).or_default();
            *nth += 1;
            Passage { point, nth: *nth }
        });
        numbered.collect()
    }

    /// Where this run of the verb did something unannounced, or did not write it down though it should.
    pub(crate) fn breaches(&self, passages: &[Passage]) -> Vec<Breach> {
        let mut found = breaches(&passages.iter().map(|p| p.point).collect::<Vec<_>>());
        found.retain(|breach| breach.missing != Missing::Record || !self.unrecorded.contains(&breach.effect));
        found
    }

    /// What somebody does who does not know that something went wrong: goes on, looks, and in the end removes everything.
    ///
    /// None of it may hang, tell of an internal error, or leave anything.
    pub(crate) fn recover(&self, place: &Place, after: &str) -> Cleaned {
        self.go_on(place, after);
        let listed = place.smolvm(&["list", "--json"]).run();
        assert_eq!(listed.code(), Some(0), "{}, after {after}: {listed}", self.name);
        self.forget_snapshots(place, after);
        // A user's own file, which no cleanup takes.
        std::fs::remove_file(place.path("config.toml")).ok();
        // A monitor whose command was killed is still at work, or ends by itself; until then its sandbox may be busy.
        testkit::until(&format!("{}, after {after}: a cleanup that finds nobody at work", self.name), BOOT, || {
            let cleaned = place.cleanup(&["--all", "--force"]);
            let busy = cleaned.failed().iter().all(|(_, code)| matches!(*code, "busy" | "changed"));
            assert!(busy, "{}, after {after}: {}", self.name, cleaned.shown());
            cleaned.failed().is_empty().then_some(cleaned)
        })
    }

    /// What was saved is somebody's work, which no cleanup takes.
    fn forget_snapshots(&self, place: &Place, after: &str) {
        let listed = place.smolvm(&["snapshot", "list", "--quiet"]).run();
        assert_eq!(listed.code(), Some(0), "{}, after {after}: {listed}", self.name);
        for name in listed.stdout.lines() {
            let deleted = place.smolvm(&["snapshot", "delete", name]).run();
            assert_eq!(deleted.code(), Some(0), "{}, after {after}: {deleted}", self.name);
        }
    }

    /// The next command must come to an end that is documented, and none that blames smolvm itself.
    fn go_on(&self, place: &Place, after: &str) {
        if self.next.is_empty() {
            return;
        }
        let next = place.smolvm(self.next).arg("--json").timeout(BOOT).run();
        let envelope = super::envelope(&next);
        let code = envelope["error"]["code"].as_str().unwrap_or("ok");
        assert!(!matches!(code, "internal" | "state_corrupt"), "{}, after {after}: {next}", self.name);
    }
}

/// How long a verb may take: the longest builds an image, twice as fast as this on a machine that does nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

fn nothing(_: &Place) {}

/// What the registry of [`offered`] has.
const OFFERED: &str = "127.0.0.1:5000/test/app:1";

/// Images are pulled, named and removed: they are this place's own.
fn with_own_images() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "disks"], &["images"]);
    place
}

/// A registry has an image of two layers. It listens as long as the test runs; each place has a loopback of its own.
fn offered(place: &Place) {
    let layers = ["one", "two"].map(|name| registry::small_layer(place, name));
    std::mem::forget(registry::serve(place, &layers, "{}"));
}

fn pulled(place: &Place) {
    offered(place);
    place.smolvm(IMAGE_PULL.verb).run().assert_ok();
}

fn made(place: &Place) {
    place.create("vm-a", &[]);
}

fn running(place: &Place) {
    place.boot(&["vm-a"]);
}

fn paused(place: &Place) {
    running(place);
    place.smolvm(&["pause", "vm-a"]).run().assert_ok();
}

fn saved(place: &Place) {
    made(place);
    place.smolvm(&["snapshot", "create", "vm-a", "--name", "one"]).run().assert_ok();
}

/// A machine that was saved, and is gone.
fn saved_machine(place: &Place) {
    place.create("vm-a", &[]);
    place.boot_made(&["vm-a"]);
    place.smolvm(&["snapshot", "create", "vm-a", "--name", "one"]).run().assert_ok();
    place.smolvm(&["delete", "vm-a"]).run().assert_ok();
}

/// Whether there is a template decides what a start does; here there is one.
fn with_template(place: &Place) {
    place.smolvm(&["template", "build", "minimal", "--net", "none", "--quiet"]).run().assert_ok();
}

fn stale(place: &Place) {
    place.seed(&["vm-a", "vm-b"]);
    // What an earlier cleaner left that was killed.
    std::fs::create_dir_all(place.path("state/trash/gone.0123456789abcdef/deep")).unwrap();
    std::fs::write(place.path("state/locks/gone.lock"), "").unwrap();
}

/// Everything is there but the ledger.
fn lost(place: &Place) {
    place.seed(&["vm-a"]);
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(place.path("state").join(file)).ok();
    }
}

/// Files of a sandbox that no record knows any more, where a new one wants to be.
fn occupied(place: &Place) {
    made(place);
    place.smolvm(&["delete", "vm-a"]).run().assert_ok();
    std::fs::create_dir_all(place.path("state/sandboxes/vm-a")).unwrap();
    std::fs::write(place.path("state/sandboxes/vm-a/owner"), format!("{}\n", place.mark("vm-a"))).unwrap();
}

fn damaged(place: &Place) {
    place.seed(&["vm-a"]);
    std::fs::write(place.path("state/state.db"), vec![b'?'; 8192]).unwrap();
}

fn hostile(place: &Place) {
    made(place);
    super::rows::insert_like(place, "vm-a", "../..");
}

/// One waits in the pool.
fn pooled(place: &Place) {
    place.smolvm(&[&POOL[..], &["pool", "fill", "--quiet"]].concat()).run().assert_ok();
}

/// One of `minimal` without a network shall wait.
const POOL: [&str; 4] = ["--set", "pool.minimal=1", "--set", "sandbox.net=none"];

/// The empty disk that others are copied from is still to be made.
fn without_disks() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "images"], &[]);
    place
}

/// What is measured of the host is still to be measured, but there is a template.
fn without_measurements() -> Place {
    let place = Place::with_network();
    place.smolvm(&["template", "build", "minimal", "--net", "tap", "--quiet"]).run().assert_ok();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &["templates"]);
    place
}

/// There is no template yet.
fn without_templates() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &[]);
    place
}

/// There is one, and it is this place's own.
fn own_template() -> Place {
    let place = Place::with_network();
    with_template(&place);
    place.own_cache(&["kernels", "initramfs", "images", "disks"], &["templates"]);
    place
}

/// One, an image and an initramfs that nobody needs, and what a killed removal left.
fn littered() -> Place {
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

/// A cache with a kernel in it, and the lists of packages.
fn without_images() -> Place {
    let place = Place::with_network();
    place.own_cache(&["kernels"], &["apt"]);
    place
}

pub(crate) const CREATE: Scenario = Scenario {
    name: "create",
    place: without_disks,
    prepare: nothing,
    verb: &["create", "--name", "vm-a", "--image", "minimal", "--net", "tap"],
    next: &["start", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const CREATE_REFUSED: Scenario = Scenario {
    name: "create, refused",
    place: Place::with_network,
    prepare: occupied,
    verb: CREATE.verb,
    next: &["delete", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const START: Scenario = Scenario {
    name: "start",
    place: without_measurements,
    prepare: made,
    verb: &["start", "vm-a"],
    next: &["start", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const STOP: Scenario = Scenario {
    name: "stop",
    place: Place::with_network,
    prepare: running,
    verb: &["stop", "vm-a"],
    next: &["stop", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const PAUSE: Scenario = Scenario {
    name: "pause",
    place: Place::with_network,
    prepare: running,
    verb: &["pause", "vm-a"],
    next: &["pause", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const RESUME: Scenario = Scenario {
    name: "resume",
    place: Place::with_network,
    prepare: paused,
    verb: &["resume", "vm-a"],
    next: &["resume", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const DELETE: Scenario = Scenario {
    name: "delete",
    place: Place::with_network,
    prepare: running,
    verb: &["delete", "vm-a"],
    next: &["delete", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const RUN: Scenario = Scenario {
    name: "run",
    place: Place::with_network,
    prepare: with_template,
    verb: &["run", "--net", "none", "minimal", "--", "true"],
    next: &["list"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const TEMPLATE_BUILD: Scenario = Scenario {
    name: "template build",
    place: without_templates,
    prepare: nothing,
    verb: &["template", "build", "minimal", "--net", "none"],
    next: &["template", "list"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const TEMPLATE_DELETE: Scenario = Scenario {
    name: "template delete",
    place: own_template,
    prepare: nothing,
    verb: &["template", "delete", "--all"],
    next: &["template", "delete", "--all"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const FORK: Scenario = Scenario {
    name: "fork",
    place: Place::without_network,
    prepare: running,
    verb: &["fork", "vm-a", "--name", "vm-b"],
    next: &["exec", "--json", "vm-a", "--", "true"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SNAPSHOT_CREATE: Scenario = Scenario {
    name: "snapshot create",
    place: Place::without_network,
    prepare: running,
    verb: &["snapshot", "create", "vm-a", "--name", "one"],
    next: &["exec", "--json", "vm-a", "--", "true"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SNAPSHOT_RESTORE: Scenario = Scenario {
    name: "snapshot restore",
    place: Place::with_network,
    prepare: saved_machine,
    verb: &["snapshot", "restore", "one"],
    next: &["start", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SNAPSHOT_DELETE: Scenario = Scenario {
    name: "snapshot delete",
    place: Place::without_network,
    prepare: saved,
    verb: &["snapshot", "delete", "one"],
    next: &["snapshot", "list"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const POOL_FILL: Scenario = Scenario {
    name: "pool fill",
    place: Place::without_network,
    prepare: with_template,
    verb: &["--set", "pool.minimal=1", "--set", "sandbox.net=none", "pool", "fill"],
    next: &["pool", "list"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const RUN_FROM_POOL: Scenario = Scenario {
    name: "run from the pool",
    place: Place::without_network,
    prepare: pooled,
    verb: &["--set", "pool.minimal=1", "--set", "sandbox.net=none", "run", "-e", "WHO=me", "minimal", "--", "true"],
    // Whoever fills the pool behind it is waited for.
    next: &["--set", "pool.minimal=1", "--set", "sandbox.net=none", "pool", "fill"],
    unrecorded: &[],
    instead: Some("the pool was of no use"),
};
pub(crate) const CONFIG_SET: Scenario = Scenario {
    name: "config set",
    place: Place::without_network,
    prepare: nothing,
    verb: &["config", "set", "sandbox.memory", "1G"],
    next: &["config", "set", "sandbox.memory", "1G"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const PRUNE: Scenario = Scenario {
    name: "prune",
    place: littered,
    prepare: nothing,
    verb: &["prune", "--all"],
    next: &["prune", "--all"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const CLEANUP: Scenario = Scenario {
    name: "cleanup",
    place: Place::with_network,
    prepare: stale,
    verb: &["cleanup", "--force"],
    next: &["cleanup", "--force"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const CLEANUP_LOST: Scenario = Scenario {
    name: "cleanup without its ledger",
    place: Place::with_network,
    prepare: lost,
    verb: &["cleanup", "--all", "--force"],
    next: &["list"],
    unrecorded: &[Effect::RemoveElements, Effect::RemoveTaps, Effect::RemoveRunDirs, Effect::RemoveStateDirs],
    instead: None,
};
pub(crate) const REPAIR: Scenario = Scenario {
    name: "doctor --fix",
    place: Place::with_network,
    prepare: hostile,
    verb: &["doctor", "--fix"],
    next: &["doctor", "--fix"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SET_ASIDE: Scenario = Scenario {
    name: "doctor --fix of a damaged ledger",
    place: Place::with_network,
    prepare: damaged,
    verb: &["doctor", "--fix"],
    next: &["doctor", "--fix"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SETUP: Scenario = Scenario {
    name: "setup",
    place: without_images,
    prepare: nothing,
    verb: &["setup", "--image", "minimal", "--no-template", "--quiet"],
    next: &[],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SETUP_REMOVE: Scenario = Scenario {
    name: "setup --remove",
    place: without_images,
    // It measures the host, and keeps what it measured.
    prepare: |place| drop(place.smolvm(&["doctor"]).run()),
    verb: &["setup", "--remove"],
    next: &[],
    unrecorded: &[],
    instead: None,
};

pub(crate) const IMAGE_PULL: Scenario = Scenario {
    name: "image pull",
    place: with_own_images,
    prepare: offered,
    verb: &["image", "pull", OFFERED],
    next: &["image", "pull", OFFERED],
    unrecorded: &[],
    instead: None,
};
pub(crate) const IMAGE_TAG: Scenario = Scenario {
    name: "image tag",
    place: with_own_images,
    prepare: nothing,
    verb: &["image", "tag", "minimal", OFFERED],
    next: &["image", "tag", "minimal", OFFERED],
    unrecorded: &[],
    instead: None,
};
pub(crate) const IMAGE_RM: Scenario = Scenario {
    name: "image rm",
    place: with_own_images,
    prepare: pulled,
    verb: &["image", "rm", OFFERED],
    // It may have gone: then somebody is told so, and pulls it again.
    next: &["image", "pull", OFFERED],
    unrecorded: &[],
    instead: None,
};
pub(crate) const IMAGE_SAVE: Scenario = Scenario {
    name: "image save",
    place: with_own_images,
    prepare: pulled,
    verb: &["image", "save", OFFERED, "--output", "image.tar"],
    next: &["image", "save", OFFERED, "--output", "image.tar"],
    unrecorded: &[],
    instead: None,
};

/// Every one, for the proof that no point is left out.
pub(crate) const ALL: [&Scenario; 28] = [
    &CREATE,
    &CREATE_REFUSED,
    &START,
    &STOP,
    &PAUSE,
    &RESUME,
    &DELETE,
    &RUN,
    &TEMPLATE_BUILD,
    &TEMPLATE_DELETE,
    &FORK,
    &SNAPSHOT_CREATE,
    &SNAPSHOT_RESTORE,
    &SNAPSHOT_DELETE,
    &POOL_FILL,
    &RUN_FROM_POOL,
    &CONFIG_SET,
    &PRUNE,
    &CLEANUP,
    &CLEANUP_LOST,
    &REPAIR,
    &SET_ASIDE,
    &SETUP,
    &SETUP_REMOVE,
    &IMAGE_PULL,
    &IMAGE_TAG,
    &IMAGE_RM,
    &IMAGE_SAVE,
];
