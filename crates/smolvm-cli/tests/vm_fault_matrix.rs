//! Every step of every verb fails once, before it happened and after, and happens twice: what is left is what the
//! report says, and the next cleanup takes it away.
//!
//! Usually one error a step, another one at each; with `cargo xtask test --long` every step meets every error.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test starts programs; how much was tried is told"
)]

mod support;

use std::collections::BTreeSet;

use smolvm_model::effect::{Act, Announcement, Effect, Side};
use support::matrix::{self, Passage, Scenario};
use testkit::Ran;

const ERRORS: [&str; 5] = ["eperm", "enospc", "eio", "ebusy", "etimedout"];

/// Which errors the step at this place of the run meets.
fn errors(at: usize) -> Vec<&'static str> {
    if std::env::var_os("SMOLVM_LONG").is_some() { ERRORS.to_vec() } else { vec![ERRORS[at % ERRORS.len()]] }
}

/// A verb that met a failure ends by itself, and says so unless it could do without.
#[track_caller]
fn assert_told(scenario: &Scenario, order: &str, ran: &Ran) {
    assert!(matches!(ran.code(), Some(0..=4 | 124..=127)), "{}: {order}: {ran}", scenario.name);
    assert!(ran.code() == Some(0) || !ran.stderr.trim().is_empty() || !ran.stdout.trim().is_empty(), "{}: {order}: {ran}", scenario.name);
    assert!(!ran.stderr.contains("panicked"), "{}: {order}: {ran}", scenario.name);
}

/// One try in a place of its own.
fn try_with(scenario: &Scenario, order: &str) -> Ran {
    let place = (scenario.place)();
    let oracle = place.oracle();
    (scenario.prepare)(&place);
    let ran = scenario.run(&place, Some(order));
    assert!(!scenario.passed(&place).is_empty(), "{}: {order}: nothing was passed\n{ran}", scenario.name);
    assert_told(scenario, order, &ran);
    scenario.recover(&place, order);
    if place.has_own_cache() {
        scenario.forget_cache(&place, order);
    }
    let diff = oracle.diff().unwrap();
    assert!(diff.is_clean(), "{}: {order} leaves\n{diff}\n{ran}", scenario.name);
    ran
}

fn every_step(scenario: &Scenario) {
    let place = (scenario.place)();
    let passages = scenario.reference(&place);
    drop(place);
    let mut tries = 0;
    for (at, passage) in passages.iter().enumerate() {
        for error in errors(at) {
            let order = passage.order(error);
            let ran = try_with(scenario, &order);
            // What finds its own traces again is done as well as it goes; all else is the verb's business.
            let must_fail = match passage.point.act {
                Act::Effect(effect) => effect.announcement() != Announcement::BySelf,
                Act::Commit(_) => true,
            };
            let told = ran.code() != Some(0) || scenario.instead.is_some_and(|words| ran.stderr.contains(words));
            assert!(!must_fail || told, "{}: {order} was kept silent\n{ran}", scenario.name);
            tries += 1;
        }
    }
    let effects: BTreeSet<Effect> = passages.iter().filter_map(effect_of).collect();
    for effect in &effects {
        let ran = try_with(scenario, &format!("twice@before:{}", effect.as_str()));
        // What uses up what it is given, or takes a name that nobody had, is done once by its very type.
        ran.assert_code(0);
    }
    println!("{}: {tries} failures at {} points, {} effects twice", scenario.name, passages.len(), effects.len());
}

fn effect_of(passage: &Passage) -> Option<Effect> {
    match (passage.point.act, passage.point.side) {
        (Act::Effect(effect), Side::Before) => Some(effect),
        (Act::Effect(_) | Act::Commit(_), _) => None,
    }
}

#[test]
fn create() {
    every_step(&matrix::CREATE);
}

#[test]
fn start() {
    every_step(&matrix::START);
}

#[test]
fn stop() {
    every_step(&matrix::STOP);
}

#[test]
fn pause() {
    every_step(&matrix::PAUSE);
}

#[test]
fn resume() {
    every_step(&matrix::RESUME);
}

#[test]
fn delete() {
    every_step(&matrix::DELETE);
}

#[test]
fn template_build() {
    every_step(&matrix::TEMPLATE_BUILD);
}

#[test]
fn template_delete() {
    every_step(&matrix::TEMPLATE_DELETE);
}

#[test]
fn fork() {
    every_step(&matrix::FORK);
}

#[test]
fn fork_of_many_layers() {
    every_step(&matrix::FORK_DEEP);
}

#[test]
fn start_with_a_disk_that_is_shared() {
    every_step(&matrix::START_SHARED);
}

#[test]
fn start_with_a_disk_that_a_snapshot_reads() {
    every_step(&matrix::START_SAVED);
}

#[test]
fn snapshot_create() {
    every_step(&matrix::SNAPSHOT_CREATE);
}

#[test]
fn snapshot_create_of_one_that_does_not_run() {
    every_step(&matrix::SNAPSHOT_STOPPED);
}

#[test]
fn snapshot_restore() {
    every_step(&matrix::SNAPSHOT_RESTORE);
}

#[test]
fn snapshot_delete() {
    every_step(&matrix::SNAPSHOT_DELETE);
}

#[test]
fn pool_fill() {
    every_step(&matrix::POOL_FILL);
}

#[test]
fn run_from_the_pool() {
    every_step(&matrix::RUN_FROM_POOL);
}

#[test]
fn config_set() {
    every_step(&matrix::CONFIG_SET);
}

#[test]
fn prune() {
    every_step(&matrix::PRUNE);
}

#[test]
fn cleanup() {
    every_step(&matrix::CLEANUP);
}

#[test]
fn cleanup_without_its_ledger() {
    every_step(&matrix::CLEANUP_LOST);
}

#[test]
fn image_pull() {
    every_step(&matrix::IMAGE_PULL);
}

#[test]
fn image_pull_over_a_damaged_layer() {
    every_step(&matrix::IMAGE_PULL_DAMAGED);
}

#[test]
fn image_tag() {
    every_step(&matrix::IMAGE_TAG);
}

#[test]
fn image_rm() {
    every_step(&matrix::IMAGE_RM);
}

#[test]
fn image_import() {
    every_step(&matrix::IMAGE_IMPORT);
}

#[test]
fn image_debootstrap() {
    every_step(&matrix::IMAGE_DEBOOTSTRAP);
}

#[test]
fn image_prune() {
    every_step(&matrix::IMAGE_PRUNE);
}

#[test]
fn image_save() {
    every_step(&matrix::IMAGE_SAVE);
}

#[test]
fn image_load() {
    every_step(&matrix::IMAGE_LOAD);
}

#[test]
fn setup() {
    every_step(&matrix::SETUP);
}

#[test]
fn setup_of_debian() {
    every_step(&matrix::SETUP_DEBIAN);
}

#[test]
fn setup_remove() {
    every_step(&matrix::SETUP_REMOVE);
}
