//! Patience does not run while the host sleeps (docs/adr/0014): `Instant` is on the clock that stands still then.
//!
//! A host cannot be sent to sleep in a test. In a time namespace in which the clock that goes on in sleep is ten days
//! ahead, the two can be told from each other.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test starts itself again and reads its environment"
)]

use std::process::Command;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

const INSIDE: &str = "SMOLVM_TEST_INSIDE";
const SLEPT: &str = "864000";

#[test]
fn an_instant_does_not_count_what_the_host_slept() {
    if std::env::var_os(INSIDE).is_some() {
        return look();
    }
    testkit::prerequisite::root();
    testkit::prerequisite::programs(&["unshare"]);
    let mut command = Command::new("unshare");
    command.args(["--time", "--boottime", SLEPT]).arg(std::env::current_exe().unwrap());
    let output =
        command.args(["--exact", "an_instant_does_not_count_what_the_host_slept", "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("looked inside"), "{said}");
}

fn look() {
    let (monotonic, instant, boottime) =
        (clock_gettime(ClockId::Monotonic).tv_sec, seconds(Instant::now()), clock_gettime(ClockId::Boottime).tv_sec);
    assert!(boottime - monotonic >= SLEPT.parse::<i64>().unwrap(), "the namespace is not shifted: {boottime} {monotonic}");
    assert!((monotonic..=monotonic + 60).contains(&instant), "an instant is on another clock: {instant} {monotonic} {boottime}");
    println!("looked inside");
}

/// What an `Instant` holds is shown by nothing but its `Debug`.
fn seconds(instant: Instant) -> i64 {
    let shown = format!("{instant:?}");
    let digits = shown.split_once("tv_sec: ").unwrap().1.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}
