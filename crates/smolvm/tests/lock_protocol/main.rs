//! The protocol of lock files and rows, every interleaving of it: a model small enough to be walked through whole.
//!
//! ```text
//!   Program (create, delete, start, cleanup) ── one step = one system call or transaction of the code ──► World
//!     explore: each process may step, or be killed, at any moment ──► every reachable World ──► the invariants
//!     at each end: one cleaner, alone, finishes what the killed ones began
//! ```
//!
//! The trap is that the lock file goes with its sandbox: who opened it before holds a lock on a file
//! that no name leads to, while another holds the one that the name leads to. [`Flaw`] leaves out one
//! precaution at a time; each must be found, or this test could not fail.
//!
//! What stands for what: steps are named after the lines of `smolvm_host::lock` (take, `is_held`,
//! `Lock::remove`) and of `smolvm::{create, delete, start, cleanup}` that they are, as their comments say. One
//! sandbox name is modelled, for no lock and no row is about two. Addresses and uids need no model of their own:
//! they are taken in the transaction that inserts the row ([`Step::Insert`]), and the store's own test shows that
//! those exclude each other. A tool is a part of its command, with which it ends.

#![allow(
    clippy::too_many_lines,
    clippy::match_same_arms,
    clippy::struct_excessive_bools,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "one arm a step, read from top to bottom, and what a process is said to know are plain facts"
)]

mod moment;
mod process;
mod walk;

use std::collections::HashSet;

use moment::{Moment, State, World};
use process::{Flaw, Program};
use walk::{explore, nobody_is_stuck};

const PROGRAMS: [Program; 4] = [Program::Create, Program::Start, Program::Delete, Program::Cleanup];

/// Every choice of `count` programs; their order says nothing, for any of them may go first.
fn choices(count: usize) -> Vec<Vec<Program>> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        all = all
            .into_iter()
            .flat_map(|chosen: Vec<Program>| {
                let least = chosen.last().copied().unwrap_or(Program::Create);
                PROGRAMS.into_iter().filter(move |program| *program >= least).map(move |program| [&chosen[..], &[program]].concat())
            })
            .collect();
    }
    all
}

/// How many may be killed: of three, one in the time of a usual run.
fn kills(programs: usize) -> usize {
    if programs == 2 || testkit::prerequisite::long() { 2 } else { 1 }
}

#[test]
fn every_interleaving_of_two_and_three_with_some_killed() {
    let (mut moments, mut ends) = (0, 0);
    for programs in choices(2).into_iter().chain(choices(3)) {
        let walk = explore(&programs, kills(programs.len()), Flaw::None).unwrap_or_else(|found| panic!("{found}"));
        assert!(walk.whole > 0, "{programs:?} never ended by itself");
        moments += walk.moments;
        ends += walk.ends;
    }
    // A walk through next to nothing would prove next to nothing.
    assert!(moments > 100_000 && ends > 1_000, "{moments} moments, {ends} ends");
    println!("{moments} moments, {ends} ends");
}

#[test]
fn nobody_waits_for_ever() {
    for programs in choices(2).into_iter().chain(choices(3)) {
        nobody_is_stuck(&programs).unwrap_or_else(|found| panic!("{programs:?}: {found}"));
    }
}

/// The life that all of this is about is among what is walked through.
#[test]
fn a_whole_life_is_reached() {
    let mut seen = HashSet::new();
    let mut open = vec![Moment::new(World::default(), &[Program::Create, Program::Start, Program::Delete])];
    let mut known = HashSet::new();
    while let Some(now) = open.pop() {
        if known.insert(now.clone()) {
            seen.extend(now.world.row.map(|row| row.state));
            for who in (0..3).filter(|who| !now.processes[*who].is_over()) {
                open.extend(now.step(who, Flaw::None).unwrap());
            }
            open.extend(now.ready(Flaw::None).map(Result::unwrap));
        }
    }
    assert_eq!(seen, HashSet::from([State::Creating, State::Created, State::Starting, State::Running, State::Deleting]));
}

#[test]
fn every_precaution_is_one() {
    let flaws = [
        Flaw::AnyFileWillDo,
        Flaw::NoSecondLook,
        Flaw::CloseFirst,
        Flaw::UnlinkFirst,
        Flaw::SweepUnlocked,
        Flaw::ActFirst,
        Flaw::NotUnique,
        Flaw::NoGeneration,
    ];
    for flaw in flaws {
        let found = choices(2).into_iter().chain(choices(3)).find_map(|programs| explore(&programs, kills(programs.len()), flaw).err());
        match found {
            Some(found) => println!("{flaw:?}: {}", found.lines().next().unwrap_or_default()),
            None => panic!("without the precaution {flaw:?} nothing breaks: it is none, or the model does not see it"),
        }
    }
}
