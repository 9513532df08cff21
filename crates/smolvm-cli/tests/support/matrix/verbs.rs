//! The verbs of the matrix, each in a situation of its own, with what somebody does next.

use smolvm_model::effect::Effect;

use super::super::Place;
use super::Scenario;
use super::situations::*;

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
pub(crate) const FORK_DEEP: Scenario = Scenario {
    name: "fork of many layers",
    place: Place::without_network,
    prepare: deep,
    verb: FORK.verb,
    next: FORK.next,
    unrecorded: &[],
    instead: None,
};
pub(crate) const START_SHARED: Scenario = Scenario {
    name: "start with a disk that is shared",
    place: Place::without_network,
    prepare: deep_and_saved,
    verb: &["start", "vm-a"],
    next: &["start", "vm-a"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const START_SAVED: Scenario =
    Scenario { name: "start with a disk that a snapshot reads", prepare: used_and_saved, ..START_SHARED };
pub(crate) const SNAPSHOT_CREATE: Scenario = Scenario {
    name: "snapshot create",
    place: Place::without_network,
    prepare: running_with_a_stray_layer,
    verb: &["snapshot", "create", "vm-a", "--name", "one"],
    next: &["exec", "--json", "vm-a", "--", "true"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SNAPSHOT_STOPPED: Scenario = Scenario {
    name: "snapshot create of one that does not run",
    place: Place::without_network,
    prepare: made,
    verb: SNAPSHOT_CREATE.verb,
    next: &["start", "vm-a"],
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
    place: bare,
    prepare: nothing,
    verb: &["setup", "--image", "minimal", "--no-template", "--quiet"],
    next: &["setup", "--image", "minimal", "--no-template"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SETUP_DEBIAN: Scenario = Scenario {
    name: "setup of debian",
    place: without_debian,
    prepare: nothing,
    verb: &["setup", "--image", "debian", "--no-template", "--quiet"],
    next: &["setup", "--image", "debian", "--no-template"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const SETUP_REMOVE: Scenario = Scenario {
    name: "setup --remove",
    place: without_images,
    prepare: nothing,
    verb: &["setup", "--remove"],
    next: &["setup", "--remove"],
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
pub(crate) const IMAGE_PULL_DAMAGED: Scenario = Scenario {
    name: "image pull over a damaged layer",
    place: with_own_images,
    prepare: offered_and_damaged,
    verb: IMAGE_PULL.verb,
    next: IMAGE_PULL.next,
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
pub(crate) const IMAGE_LOAD: Scenario = Scenario {
    name: "image load",
    place: with_own_images,
    prepare: in_a_file,
    verb: &["image", "load", "image.tar"],
    next: &["image", "load", "image.tar"],
    unrecorded: &[],
    instead: None,
};

pub(crate) const IMAGE_IMPORT: Scenario = Scenario {
    name: "image import",
    place: with_own_images,
    prepare: rooted,
    verb: &["image", "import", "rootfs", "--name", OFFERED],
    next: &["image", "import", "rootfs", "--name", OFFERED],
    unrecorded: &[],
    instead: None,
};
pub(crate) const IMAGE_DEBOOTSTRAP: Scenario = Scenario {
    name: "image debootstrap",
    place: bare,
    prepare: nothing,
    verb: &["image", "debootstrap", "--name", OFFERED, "--package", "netbase"],
    next: &["image", "debootstrap", "--name", OFFERED, "--package", "netbase"],
    unrecorded: &[],
    instead: None,
};
pub(crate) const IMAGE_PRUNE: Scenario = Scenario {
    name: "image prune",
    place: with_own_images,
    prepare: pulled,
    verb: &["image", "prune", "--all"],
    next: &["image", "pull", OFFERED],
    unrecorded: &[],
    instead: None,
};

/// Every one, for the proof that no point is left out.
pub(crate) const ALL: [&Scenario; 38] = [
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
    &FORK_DEEP,
    &START_SHARED,
    &START_SAVED,
    &SNAPSHOT_CREATE,
    &SNAPSHOT_STOPPED,
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
    &SETUP_DEBIAN,
    &SETUP_REMOVE,
    &IMAGE_PULL,
    &IMAGE_PULL_DAMAGED,
    &IMAGE_TAG,
    &IMAGE_RM,
    &IMAGE_SAVE,
    &IMAGE_LOAD,
    &IMAGE_IMPORT,
    &IMAGE_DEBOOTSTRAP,
    &IMAGE_PRUNE,
];
