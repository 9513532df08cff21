//! SIGKILL at every point of every verb: what is left is found, what goes on goes on, and in the end nothing is there.
//!
//! ```text
//!   for each passage of the reference run:  a new place ─► prepare ─► the verb, killed there ─► list ─► the next
//!   command ─► cleanup --all --force ─► the host is what it was
//! ```
//!
//! `docs/crash-story.md` tells what a reader sees at each of these points.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test starts programs; how much was tried is told"
)]

mod support;

use std::collections::BTreeSet;

use smolvm_model::effect::{Commit, Effect, Missing, Point};
use support::matrix::{self, Passage, Scenario, places};
use support::{Place, SOON, rows};
use testkit::process::Process;

/// Kills the verb at this passage, and makes sure that it was killed there and not somewhere else.
fn kill(scenario: &Scenario, place: &Place, passage: Passage) {
    let order = passage.order("kill");
    let ran = scenario.run(place, Some(&order));
    let passed = scenario.passed(place);
    let verb = passed.first().map(|(pid, _)| *pid);
    let hit = passed.iter().filter(|(_, point)| *point == passage.point).nth(passage.nth - 1);
    let (pid, _) = hit.unwrap_or_else(|| panic!("{}: {order} was never reached\n{ran}", scenario.name));
    if verb == Some(*pid) {
        assert_eq!(ran.signal(), Some(9), "{}: {order}\n{ran}", scenario.name);
    }
    testkit::until(&format!("{}: the end of who was killed by {order}", scenario.name), SOON, || {
        Process::read(*pid).is_none_or(|process| !process.lives()).then_some(())
    });
}

fn every_point(scenario: &Scenario) {
    let place = (scenario.place)();
    let passages = scenario.reference(&place);
    assert_eq!(scenario.breaches(&passages), [], "{}: {passages:?}", scenario.name);
    drop(place);
    for passage in &passages {
        let place = (scenario.place)();
        let oracle = place.oracle();
        (scenario.prepare)(&place);
        kill(scenario, &place, *passage);
        let after = passage.order("kill");
        scenario.recover(&place, &after);
        if place.has_own_cache() {
            scenario.forget_cache(&place, &after);
        }
        let diff = oracle.diff().unwrap();
        assert!(diff.is_clean(), "{}: {after} leaves\n{diff}", scenario.name);
    }
    println!("{}: killed at {} points", scenario.name, passages.len());
}

#[test]
fn create() {
    every_point(&matrix::CREATE);
}

#[test]
fn create_that_is_refused() {
    every_point(&matrix::CREATE_REFUSED);
}

#[test]
fn start() {
    every_point(&matrix::START);
}

#[test]
fn stop() {
    every_point(&matrix::STOP);
}

#[test]
fn pause() {
    every_point(&matrix::PAUSE);
}

#[test]
fn resume() {
    every_point(&matrix::RESUME);
}

#[test]
fn delete() {
    every_point(&matrix::DELETE);
}

#[test]
fn run() {
    every_point(&matrix::RUN);
}

#[test]
fn template_build() {
    every_point(&matrix::TEMPLATE_BUILD);
}

#[test]
fn template_delete() {
    every_point(&matrix::TEMPLATE_DELETE);
}

#[test]
fn fork() {
    every_point(&matrix::FORK);
}

#[test]
fn fork_of_many_layers() {
    every_point(&matrix::FORK_DEEP);
}

#[test]
fn start_with_a_disk_that_is_shared() {
    every_point(&matrix::START_SHARED);
}

#[test]
fn start_with_a_disk_that_a_snapshot_reads() {
    every_point(&matrix::START_SAVED);
}

#[test]
fn snapshot_create() {
    every_point(&matrix::SNAPSHOT_CREATE);
}

#[test]
fn snapshot_create_of_one_that_does_not_run() {
    every_point(&matrix::SNAPSHOT_STOPPED);
}

#[test]
fn snapshot_restore() {
    every_point(&matrix::SNAPSHOT_RESTORE);
}

#[test]
fn snapshot_delete() {
    every_point(&matrix::SNAPSHOT_DELETE);
}

#[test]
fn pool_fill() {
    every_point(&matrix::POOL_FILL);
}

#[test]
fn run_from_the_pool() {
    every_point(&matrix::RUN_FROM_POOL);
}

#[test]
fn config_set() {
    every_point(&matrix::CONFIG_SET);
}

#[test]
fn prune() {
    every_point(&matrix::PRUNE);
}

#[test]
fn cleanup() {
    every_point(&matrix::CLEANUP);
}

#[test]
fn cleanup_without_its_ledger() {
    every_point(&matrix::CLEANUP_LOST);
}

#[test]
fn doctor_fix() {
    every_point(&matrix::REPAIR);
}

#[test]
fn doctor_fix_of_a_damaged_ledger() {
    every_point(&matrix::SET_ASIDE);
}

#[test]
fn setup() {
    every_point(&matrix::SETUP);
}

#[test]
fn setup_of_debian() {
    every_point(&matrix::SETUP_DEBIAN);
}

#[test]
fn image_pull() {
    every_point(&matrix::IMAGE_PULL);
}

#[test]
fn image_pull_over_a_damaged_layer() {
    every_point(&matrix::IMAGE_PULL_DAMAGED);
}

#[test]
fn image_tag() {
    every_point(&matrix::IMAGE_TAG);
}

#[test]
fn image_rm() {
    every_point(&matrix::IMAGE_RM);
}

#[test]
fn image_import() {
    every_point(&matrix::IMAGE_IMPORT);
}

#[test]
fn image_debootstrap() {
    every_point(&matrix::IMAGE_DEBOOTSTRAP);
}

#[test]
fn image_prune() {
    every_point(&matrix::IMAGE_PRUNE);
}

#[test]
fn image_save() {
    every_point(&matrix::IMAGE_SAVE);
}

#[test]
fn image_load() {
    every_point(&matrix::IMAGE_LOAD);
}

#[test]
fn setup_remove() {
    every_point(&matrix::SETUP_REMOVE);
}

/// Of what smolvm can do to a host, one thing is not killed here: the installation of packages, which is apt's own to survive.
///
/// The points of every scenario are those of a verb that came to its end: [`Scenario::reference`] sees to that.
#[test]
fn no_point_is_left_out() {
    let mut reached: BTreeSet<Point> = BTreeSet::new();
    let mut places = places::all();
    let count = places.len();
    assert!(count > 60, "only {count} places were found in the code");
    for scenario in matrix::ALL {
        let place = (scenario.place)();
        for passage in scenario.reference(&place) {
            reached.insert(passage.point);
            places.remove(passage.at);
        }
        place.cleanup(&["--all", "--force"]);
    }
    let missed: Vec<String> = Point::all().filter(|p| !reached.contains(p)).map(|p| p.to_string()).collect();
    assert_eq!(missed, ["before:install-packages", "after:install-packages"]);
    let missed: Vec<String> = places.values().map(ToString::to_string).collect();
    assert_eq!(missed, LEFT_OUT.map(|(place, _)| place));
    println!(
        "{} effects and {} transactions, {} points; {count} places in the code, {} left out",
        Effect::ALL.len(),
        Commit::ALL.len(),
        reached.len(),
        LEFT_OUT.len()
    );
}

/// The places in the code that change the host and that no scenario passes, each with its reason.
const LEFT_OUT: [(&str, &str); 3] = [
    ("crates/smolvm/src/monitor/poll.rs run", "a hypervisor that is ended after 20 s: a kill of its monitor ends it as well"),
    ("crates/smolvm/src/monitor/stop.rs kill_now", "the same, asked for by a request that no command makes"),
    ("crates/smolvm/src/setup/packages.rs carry_out", "the installation of packages changes the machine that runs this"),
];

/// A build that forgets to write something down is noticed, whatever it forgets.
#[test]
fn a_step_that_forgets_its_record_is_caught() {
    for (scenario, commit, effect) in
        [(&matrix::CREATE, Commit::Created, Effect::StateDir), (&matrix::CLEANUP, Commit::Deleted, Effect::RemoveTaps)]
    {
        let place = (scenario.place)();
        (scenario.prepare)(&place);
        scenario.run(&place, Some(&format!("forget@before:ledger/{}", commit.as_str())));
        let points: Vec<Point> = scenario.passed(&place).into_iter().map(|(_, point)| point).collect();
        let breaches = smolvm_model::effect::breaches(&points);
        assert!(breaches.iter().any(|b| b.effect == effect && b.missing == Missing::Record), "{}: {breaches:?}", scenario.name);
        // Forgotten or not, it is found.
        place.cleanup(&["--all", "--force"]).assert_ok();
    }
}

/// And so is one that takes the number of a process for the process.
#[test]
fn one_that_trusts_a_pid_is_caught() {
    let place = Place::with_network();
    place.seed(&["vm-a"]);
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    rows::set_identity(&place, "vm-a", "pid", stranger.id());
    let trace = Scenario::trace(&place);
    let cleanup =
        |order: &str| place.smolvm(&["cleanup", "--force"]).env("SMOLVM_TEST_TRACE", &trace).env("SMOLVM_TEST_FAULT", order).run();
    // As it is, the stranger lives; broken, it does not.
    place.cleanup(&["--force"]).assert_ok();
    assert!(stranger.try_wait().unwrap().is_none(), "a stranger was ended");
    place.seed(&["vm-a"]);
    rows::set_identity(&place, "vm-a", "pid", stranger.id());
    cleanup("trust-pids");
    testkit::until("the end of the stranger", SOON, || stranger.try_wait().unwrap());
    place.cleanup(&["--all", "--force"]).assert_ok();
}

/// The page for people knows every point that the code has.
#[test]
fn the_crash_story_is_whole() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/crash-story.md")).unwrap();
    let effects = Effect::ALL.iter().map(|e| format!("`{}`", e.as_str()));
    let commits = Commit::ALL.iter().map(|c| format!("`ledger/{}`", c.as_str()));
    let missing: Vec<String> = effects.chain(commits).filter(|word| !page.contains(word.as_str())).collect();
    assert!(missing.is_empty(), "docs/crash-story.md does not tell of {missing:?}");
}
