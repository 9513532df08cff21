//! Many commands at once on the same few names: each ends in time with a code that is meant for it, nobody
//! gets what another has, and nothing is left half done.
//!
//! ```text
//!   6 workers ── create, start, stop, delete, cleanup … on 4 names, some SIGKILLed ──┐
//!   observer  ── list --json, the ledger, the processes' uids, all the time ─────────┤
//!                                                                                    ▼
//!   what is left is whole, or a target of cleanup ──► two cleaners at once ──► the oracle
//! ```
//!
//! `SMOLVM_TEST_SEED` repeats the draws (not the scheduler); `SMOLVM_TEST_ROUNDS` repeats the whole with other
//! draws (once; 20 times with `cargo xtask test --long`).

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that tells its seed and what became of its draws")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use smolvm_model::error_code::ErrorCode;
use support::{BOOT, Cleaned, Place, answer, rows};
use testkit::{Dice, dice, prerequisite, process};

/// The names all workers want; two of them any cleanup may take.
const NAMES: [&str; 4] = ["vm-a", "vm-b", "named-a", "named-b"];
const WORKERS: u64 = 6;
const COMMANDS: usize = 15;
/// Waiting for a lock, an orderly stop of a guest under TCG, a boot beside five others: none comes near.
const DEADLINE: Duration = Duration::from_mins(3);

/// Kinds of which a sandbox has one each, and nobody else the same.
const ALONE: [&str; 5] = ["address", "mac", "nft_elements", "tap", "uid"];

/// What everybody did, in the order it ended; told when the test fails. It also ends the others then.
struct Story {
    seed: u64,
    lines: Mutex<Vec<String>>,
    /// How often each verb ended how.
    ends: Mutex<BTreeMap<(&'static str, String), u64>>,
    over: AtomicBool,
}

impl Story {
    fn new(seed: u64) -> Self {
        eprintln!("SMOLVM_TEST_SEED={seed}");
        Self { seed, lines: Mutex::default(), ends: Mutex::default(), over: AtomicBool::new(false) }
    }

    fn add(&self, line: impl Display) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_string());
    }

    fn count(&self, verb: &'static str, end: String) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner).entry((verb, end)).or_default() += 1;
    }

    /// A crowd in which nobody gets into anybody's way, or nothing is done, would show nothing.
    fn assert_crowded(&self) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |wanted: &dyn Fn(&str, &str) -> bool| -> u64 {
            ends.iter().filter(|((verb, end), _)| wanted(verb, end)).map(|(_, count)| count).sum()
        };
        eprintln!("{ends:?}");
        // Far below what any draw comes to: which of them succeed is the scheduler's choice.
        assert!(of(&|verb, end| verb == "create" && end == "ok") >= 3, "hardly anything was made: {ends:?}");
        assert!(of(&|verb, end| verb == "start" && end != "not_found") >= 1, "no start met its sandbox: {ends:?}");
        assert!(of(&|_, end| end == "killed") >= 1, "nobody was killed: {ends:?}");
        // The whole command, or one target of a cleanup.
        assert!(of(&|_, end| matches!(end, "busy" | "one busy" | "one changed")) >= 1, "nobody was in anybody's way: {ends:?}");
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Runs one part; when it fails the others end soon and all that was done is told, once.
    fn part<T>(&self, part: impl FnOnce() -> T) -> T {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(part)) {
            Ok(value) => value,
            Err(panic) => {
                if !self.over.swap(true, Ordering::Relaxed) {
                    eprintln!("FAILED: SMOLVM_TEST_SEED={}", self.seed);
                    for line in self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                        eprintln!("{line}");
                    }
                }
                std::panic::resume_unwind(panic)
            }
        }
    }
}

#[test]
fn concurrency_of_workers_on_the_same_names() {
    let rounds = dice::number("SMOLVM_TEST_ROUNDS").unwrap_or(if prerequisite::long() { 20 } else { 1 });
    let seed = dice::seed();
    let place = Place::with_network();
    let oracle = place.oracle();
    for round in 0..rounds {
        let story = Story::new(seed + round);
        story.part(|| {
            let looks = crowd(&place, &story);
            assert!(looks > 10, "the observer looked {looks} times only");
            story.assert_crowded();
            settle(&place);
            whole_or_a_target(&place);
            two_cleaners(&place, &story);
            oracle.assert_clean();
        });
    }
}

/// All workers and the observer; how often that one looked.
fn crowd(place: &Place, story: &Story) -> u64 {
    thread::scope(|scope| {
        let observer = scope.spawn(|| story.part(|| observe(place, story)));
        let workers: Vec<_> = (0..WORKERS).map(|worker| scope.spawn(move || story.part(|| work(place, story, worker)))).collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        story.end();
        let looks = observer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for end in ended {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        looks
    })
}

/// One worker's commands.
fn work(place: &Place, story: &Story, worker: u64) {
    let mut dice = Dice::of(story.seed, worker);
    for number in 0..COMMANDS {
        if story.is_over() {
            return;
        }
        let args = draw(&mut dice);
        // A start is killed anywhere in its first second, anything else in its first moments.
        let most = if args.contains(&"start") || args.contains(&"--start") { 1000 } else { 60 };
        let kill = (dice.below(5) == 0).then(|| dice.time(Duration::from_millis(most)));
        let mut command = place.smolvm(&args).timeout(DEADLINE).spawn();
        if let Some(delay) = kill {
            thread::sleep(delay);
            command.signal_group(Signal::KILL);
        }
        let ran = command.wait();
        story.add(format_args!("worker {worker} command {number} (killed after {kill:?})\n{ran}"));
        if kill.is_some() && ran.signal() == Some(9) {
            story.count(args[0], "killed".to_owned());
            continue;
        }
        let failure = answer::failure(args[0], &ran);
        story.count(args[0], failure.map_or("ok".to_owned(), |code| code.to_string()));
        assert!(failure.is_none_or(|code| may_fail_with(args[0]).contains(&code)), "worker {worker} command {number}\n{ran}");
        let each = answer::failed_codes(&ran);
        for code in &each {
            story.count(args[0], format!("one {code}"));
        }
        let expected: &[&str] = if args[0] == "cleanup" { &["busy", "changed"] } else { &["busy", "not_found"] };
        assert!(each.iter().all(|code| expected.contains(&code.as_str())), "worker {worker} command {number}\n{ran}");
    }
}

/// A command line. Starts are dear, so they are rare; the rest makes the crowd.
fn draw(dice: &mut Dice) -> Vec<&'static str> {
    let name = dice.one_of(&NAMES);
    let other = dice.one_of(&NAMES);
    let create = ["create", "--json", "--image", "minimal", "--net", "tap", "--name", name];
    match dice.below(20) {
        0..=4 => create.to_vec(),
        5..=6 => [&create[..], &["--start"]].concat(),
        7..=10 => vec!["start", "--json", name],
        11..=12 => vec!["stop", "--json", name],
        13..=14 => vec!["delete", "--json", name],
        15 => vec!["delete", "--json", name, other],
        16 => vec!["exec", "--json", name, "--", "true"],
        17 => vec!["cleanup", "--json", "--force"],
        18 => vec!["cleanup", "--json", "--force", "--all"],
        _ => vec!["inspect", "--json", name],
    }
}

/// What the contract lets a command end with because others were there.
fn may_fail_with(verb: &str) -> &'static [ErrorCode] {
    use ErrorCode::{AlreadyExists, Busy, Changed, GuestError, InvalidState, NotFound, PartialFailure, Timeout};
    match verb {
        // With --start it goes on like a start, on a sandbox that is another's to take away.
        "create" => &[AlreadyExists, Busy, NotFound, InvalidState],
        "start" => &[NotFound, Busy, InvalidState, Changed],
        // A guest that still boots, its start killed, cannot be asked to shut down in order.
        "stop" => &[NotFound, Busy, InvalidState, Changed, GuestError, Timeout],
        "delete" => &[NotFound, Busy, PartialFailure],
        // The sandbox is taken away under it.
        "exec" => &[NotFound, InvalidState, GuestError],
        "cleanup" => &[PartialFailure],
        "inspect" => &[NotFound],
        _ => &[],
    }
}

/// Looks, as long as the workers work, that nobody has what another has.
fn observe(place: &Place, story: &Story) -> u64 {
    let mut looks = 0;
    while !story.is_over() {
        // Whatever is in progress, a look neither fails nor waits.
        let listed = place.list();
        let mut addresses = BTreeSet::new();
        for (id, sandbox) in &listed {
            if let Some(address) = sandbox["network"]["address"].as_str() {
                assert!(addresses.insert(address.to_owned()), "{id} has the address of another: {listed:#?}");
            }
        }
        if place.path("state/state.db").exists() {
            nothing_is_held_twice(place);
        }
        hypervisors_are_alone(place);
        looks += 1;
    }
    looks
}

/// One look at the ledger: every sandbox has all of its names, and each name one sandbox.
fn nothing_is_held_twice(place: &Place) {
    let mut owners: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Entry { kind, key, sandbox } in entries(place) {
        kinds.entry(sandbox.clone()).or_default().push(kind.clone());
        if let Some(other) = owners.insert((kind.clone(), key.clone()), sandbox.clone()) {
            panic!("the {kind} {key} is {sandbox}'s and {other}'s");
        }
    }
    for (sandbox, kinds) in kinds {
        for kind in ALONE {
            let count = kinds.iter().filter(|held| *held == kind).count();
            assert_eq!(count, 1, "{sandbox} has {count} of {kind}: {kinds:?}");
        }
    }
}

struct Entry {
    kind: String,
    key: String,
    sandbox: String,
}

/// Every entry of the ledger with its row, in one look.
fn entries(place: &Place) -> Vec<Entry> {
    let database = rows::open(place);
    // Killed between making the file and its first transaction, a command leaves no tables.
    let tables: i64 = database.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'ledger'", [], |row| row.get(0)).unwrap();
    if tables == 0 {
        return Vec::new();
    }
    let mut query = database
        .prepare("SELECT ledger.kind, ledger.key, sandbox.id FROM sandbox LEFT JOIN ledger ON ledger.sandbox = sandbox.id")
        .unwrap();
    let rows = query.query_map([], |row| Ok(Entry { kind: row.get(0)?, key: row.get(1)?, sandbox: row.get(2)? }));
    rows.unwrap().map(|row| row.expect("a row without entries is a sandbox without a directory")).collect()
}

/// What the kernel says: under one uid runs one sandbox's hypervisor, and a sandbox has one.
fn hypervisors_are_alone(place: &Place) {
    let (mut uids, mut tokens) = (BTreeMap::new(), BTreeMap::new());
    let start = format!("smolvm:{}:", place.install());
    for process in process::all().into_iter().filter(|process| process.exe_name().starts_with("qemu-system")) {
        let Some(at) = process.argv.iter().position(|word| word.starts_with(&start)) else { continue };
        let mark = process.argv[at].clone();
        if let Some(other) = uids.insert(process.uid, mark.clone()) {
            assert_eq!(mark, other, "two sandboxes run under uid {}", process.uid);
        }
        if let Some(other) = tokens.insert(mark, process.argv.clone()) {
            // One that is being ended and one that has been started after it would be a second.
            assert!(!process.lives() || other == process.argv, "{} beside {other:?}", process.describe());
        }
    }
}

/// A monitor whose starter was killed works on. Waits until no sandbox is between two states.
fn settle(place: &Place) {
    testkit::until("every sandbox has come to rest", BOOT, || {
        let moving =
            |sandbox: &serde_json::Value| matches!(sandbox["state"].as_str(), Some("starting" | "stopping")) && sandbox["stale"] == false;
        (!place.list().values().any(moving)).then_some(())
    });
}

/// Every sandbox that is left is whole, or found by a cleanup; and nothing is there without a sandbox.
fn whole_or_a_target(place: &Place) {
    let dry = place.cleanup(&["--dry-run"]);
    let listed = place.list();
    for (id, sandbox) in &listed {
        let state = sandbox["state"].as_str().unwrap_or_default();
        let interrupted = sandbox["stale"] == true || matches!(state, "creating" | "deleting");
        if interrupted {
            assert!(dry.targets().contains(&id.as_str()), "{id} is {state}, and no target of a cleanup: {}", dry.shown());
            continue;
        }
        for file in ["owner", "data.img"] {
            assert!(place.path(&format!("state/sandboxes/{id}/{file}")).exists(), "{id} is {state} and has no {file}");
        }
        if state == "running" {
            place.assert_answers(id);
        }
    }
    nothing_is_held_twice(place);
    let known = |name: &str| listed.contains_key(name);
    for directory in ["state/sandboxes", "run"] {
        for entry in std::fs::read_dir(place.path(directory)).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(known(&name) || name == ".trash", "{directory}/{name} is no sandbox's");
        }
    }
    let owners = place.taps("smolvm:");
    let devices: BTreeSet<String> = entries(place).into_iter().filter(|entry| entry.kind == "tap").map(|entry| entry.key).collect();
    assert!(owners.iter().all(|tap| devices.contains(tap)), "{owners:?} are there, {devices:?} are recorded");
}

/// Two cleaners at once take everything: what one does not, the other does, and nothing is left for a third.
fn two_cleaners(place: &Place, story: &Story) {
    let both: Vec<_> = (0..2).map(|_| place.smolvm(&["cleanup", "--json", "--all", "--force"]).timeout(DEADLINE).spawn()).collect();
    for cleaner in both {
        let ran = cleaner.wait();
        story.add(&ran);
        let cleaned = Cleaned::of(&ran);
        assert!(cleaned.failed().iter().all(|(_, code)| matches!(*code, "busy" | "changed")), "{}", cleaned.shown());
    }
    let third = place.cleanup(&["--all", "--force"]);
    third.assert_ok();
    story.add(third.shown());
    assert!(third.targets().is_empty(), "two cleaners left something: {}", third.shown());
    assert!(place.ids().is_empty());
}

/// Two cleaners, one of them killed: the other, or the next, finishes what it began.
#[test]
fn concurrency_of_two_cleaners_one_of_them_killed() {
    const NAMES: [&str; 5] = ["vm-a", "vm-b", "vm-c", "named-a", "named-b"];
    let rounds = dice::number("SMOLVM_TEST_ROUNDS").unwrap_or(if prerequisite::long() { 200 } else { 12 });
    let story = Story::new(dice::seed());
    let place = Place::with_network();
    let oracle = place.oracle();
    let mut met = 0;
    for round in 0..rounds {
        story.part(|| {
            let mut dice = Dice::of(story.seed, round);
            place.seed(&NAMES);
            let clean = || place.smolvm(&["cleanup", "--json", "--all", "--force"]).timeout(DEADLINE).spawn();
            let (mut first, second) = (clean(), clean());
            let delay = dice.time(Duration::from_millis(80));
            thread::sleep(delay);
            first.signal_group(Signal::KILL);
            let (first, second) = (first.wait(), second.wait());
            story.add(format_args!("round {round}: the first killed after {delay:?}\n{first}\n{second}"));
            met += u64::from(first.signal() == Some(9));
            let cleaned = Cleaned::of(&second);
            // What the first held when the second came, the second could not take.
            assert!(cleaned.failed().iter().all(|(_, code)| matches!(*code, "busy" | "changed")), "{}", cleaned.shown());
            let third = place.cleanup(&["--all", "--force"]);
            story.add(third.shown());
            third.assert_ok();
            assert!(place.ids().is_empty(), "{}", third.shown());
            oracle.assert_clean();
        });
    }
    eprintln!("{met} of {rounds} cleaners were killed at work");
    assert!(met * 3 > rounds, "only {met} of {rounds} cleaners were killed at work");
}
