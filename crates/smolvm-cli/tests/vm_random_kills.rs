//! Kills at random: a command at work under load, somebody of it killed at a random moment, and then
//! the next command, a cleanup, and the host as it was before. Every round.
//!
//! ```text
//!   seed, round ──► case (verb, what is there before, victim), delay, next command
//!     before ──► verb at work, a neighbour beside it ──► delay ──► SIGKILL ──► its end, if it was not the victim
//!            ──► next command: ends, with a documented code ──► cleanup --all --force: 0 ──► the oracle
//! ```
//!
//! `SMOLVM_TEST_ROUNDS` says how many rounds (50; 1,000 with `cargo xtask test --long`), `SMOLVM_TEST_SEED`
//! repeats the draws, `SMOLVM_TEST_ROUND` does one round of them alone: no round depends on another. The draws
//! repeat, the scheduler does not, so a rare failure may need its round several times.
//!
//! Cases come from a shuffled deck, so a run of 50 rounds has nearly every case once, whatever was drawn.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that tells its seed and what became of its draws")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use smolvm_model::error_code::ErrorCode;
use support::{BOOT, Place, SOON, answer};
use testkit::process::{self, Process};
use testkit::{Dice, Ran, Running, dice, prerequisite};

/// What runs when the kill comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Create,
    CreateStart,
    Start,
    Stop,
    Exec,
    Delete,
    Cleanup,
    Run,
}

/// What the sandbox is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Before {
    Nothing,
    Created,
    /// Recorded as running with everything it holds, its processes dead: made in milliseconds.
    Stale,
    Running,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Command,
    /// The command's process group.
    Group,
    Monitor,
    Hypervisor,
    /// The monitor and its hypervisor.
    Both,
    /// The command's process group, the monitor and its hypervisor.
    Everybody,
}

use Victim::{Both, Command, Everybody, Group, Hypervisor, Monitor};

const ANY: &[Victim] = &[Command, Group, Monitor, Hypervisor, Both, Everybody];
/// Where there is neither monitor nor hypervisor.
const CALLER: &[Victim] = &[Command, Group];

/// Each verb on each state it is worth trying on, who can be killed then, and how long the verb takes at
/// most, in milliseconds: the delay is drawn from that. Debug builds on two busy cores.
const CASES: &[(Verb, Before, &[Victim], u64)] = &[
    (Verb::Create, Before::Nothing, CALLER, 60),
    (Verb::CreateStart, Before::Nothing, ANY, 2500),
    (Verb::Start, Before::Created, ANY, 2500),
    (Verb::Start, Before::Stale, &[Command, Monitor, Everybody], 2500),
    (Verb::Stop, Before::Running, ANY, 250),
    (Verb::Stop, Before::Stale, CALLER, 150),
    (Verb::Exec, Before::Running, ANY, 300),
    (Verb::Delete, Before::Created, CALLER, 40),
    (Verb::Delete, Before::Stale, CALLER, 150),
    (Verb::Delete, Before::Running, ANY, 200),
    (Verb::Cleanup, Before::Created, CALLER, 40),
    (Verb::Cleanup, Before::Stale, CALLER, 150),
    (Verb::Cleanup, Before::Running, ANY, 200),
    (Verb::Run, Before::Nothing, ANY, 3000),
];

/// Everything that is drawn for one round.
#[derive(Debug, Clone)]
struct Round {
    seed: u64,
    number: u64,
    verb: Verb,
    before: Before,
    victim: Victim,
    delay: Duration,
    name: String,
    everything: bool,
    next: &'static str,
}

impl Round {
    fn draw(seed: u64, number: u64) -> Self {
        let mut deck: Vec<_> = CASES.iter().flat_map(|case| case.2.iter().map(move |victim| (case, *victim))).collect();
        let length = u64::try_from(deck.len()).unwrap();
        Dice::of(seed, u64::MAX - number / length).shuffle(&mut deck);
        let (&(verb, before, _, most), victim) = deck[usize::try_from(number % length).unwrap()];
        let mut dice = Dice::of(seed, number);
        Self {
            seed,
            number,
            verb,
            before,
            victim,
            delay: dice.time(Duration::from_millis(most)),
            name: format!("{}-{number}", dice.one_of(&["vm", "named"])),
            everything: dice.below(3) == 0,
            // A start boots a guest, which takes as long as all else together.
            next: dice.one_of(&["list", "list", "inspect", "inspect", "start", "stop", "stop", "delete", "delete"]),
        }
    }

    fn word(&self) -> &'static str {
        match self.verb {
            Verb::Create | Verb::CreateStart => "create",
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Exec => "exec",
            Verb::Delete => "delete",
            Verb::Cleanup => "cleanup",
            Verb::Run => "run",
        }
    }

    fn args(&self) -> Vec<&str> {
        let name = self.name.as_str();
        match self.verb {
            Verb::Create => vec!["create", "--json", "--image", "minimal", "--name", name, "--net", "tap"],
            Verb::CreateStart => vec!["create", "--json", "--image", "minimal", "--name", name, "--net", "tap", "--start"],
            Verb::Start | Verb::Stop | Verb::Delete => vec![self.word(), "--json", name],
            // Longer than any delay: it is at work when the kill comes.
            Verb::Exec => vec!["exec", "--json", name, "--", "sleep", "2"],
            Verb::Cleanup if self.everything => vec!["cleanup", "--json", "--force", "--all"],
            Verb::Cleanup => vec!["cleanup", "--json", "--force"],
            Verb::Run => vec!["run", "--json", "--name", name, "--net", "tap", "minimal", "--", "sleep", "1"],
        }
    }

    /// Whether the command itself is killed.
    fn kills_command(&self) -> bool {
        matches!(self.victim, Command | Group | Everybody)
    }

    /// Codes with which the command may fail when somebody it needs was killed and it was not.
    fn may_fail_with(&self) -> &'static [ErrorCode] {
        match self.verb {
            Verb::CreateStart | Verb::Start | Verb::Run | Verb::Stop => &[ErrorCode::GuestError],
            // It may look for the first time when the kill was long ago.
            Verb::Exec => &[ErrorCode::GuestError, ErrorCode::InvalidState],
            Verb::Cleanup => &[ErrorCode::PartialFailure],
            Verb::Create | Verb::Delete => &[],
        }
    }

    /// Codes with which the command after the kill may fail.
    fn next_may_fail_with(&self) -> &'static [ErrorCode] {
        match self.next {
            "list" => &[],
            "inspect" => &[ErrorCode::NotFound],
            // Half made, half deleted, or still being started by a monitor that lives on.
            "start" => &[ErrorCode::NotFound, ErrorCode::Busy, ErrorCode::InvalidState],
            // A guest whose monitor was killed could not be asked.
            "stop" => &[ErrorCode::NotFound, ErrorCode::Busy, ErrorCode::InvalidState, ErrorCode::GuestError],
            _ => &[ErrorCode::NotFound, ErrorCode::Busy],
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, number, verb, before, victim, delay, name, next, .. } = self;
        write!(f, "seed {seed} round {number}: {verb:?} of {name} ({before:?}), {victim:?} killed after {delay:?}, then {next}")
    }
}

/// What happened in a round; told when the round fails.
struct Story<'a> {
    round: &'a Round,
    lines: RefCell<Vec<String>>,
}

impl Story<'_> {
    fn add(&self, line: impl fmt::Display) {
        self.lines.borrow_mut().push(line.to_string());
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("FAILED {}", self.round);
            eprintln!("again, this round alone: SMOLVM_TEST_SEED={} SMOLVM_TEST_ROUND={}", self.round.seed, self.round.number);
            for line in self.lines.borrow().iter() {
                eprintln!("{line}");
            }
        }
    }
}

/// Tells the neighbour to stop, also when the round fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn random_kills_leave_nothing_behind() {
    let seed = dice::seed();
    let rounds = dice::number("SMOLVM_TEST_ROUNDS").unwrap_or(if prerequisite::long() { 1000 } else { 50 });
    let alone = dice::number("SMOLVM_TEST_ROUND");
    eprintln!("random kills: SMOLVM_TEST_SEED={seed}, {rounds} rounds");
    let place = Place::with_network();
    let oracle = place.oracle();
    let begin = Instant::now();
    let mut hit: BTreeMap<Victim, (u64, u64)> = BTreeMap::new();
    for number in alone.map_or(0..rounds, |number| number..number + 1) {
        let round = Round::draw(seed, number);
        let story = Story { round: &round, lines: RefCell::default() };
        let struck = play(&place, &round, &story);
        oracle.assert_clean();
        let (of, count) = hit.entry(round.victim).or_default();
        *of += 1;
        *count += u64::from(struck);
        eprintln!("{round}: {} ({:?})", if struck { "hit" } else { "too late" }, begin.elapsed());
    }
    eprintln!("{rounds} rounds in {:?}; victims, rounds and hits: {hit:?}", begin.elapsed());
    // A kill may come too late. If most do, the delays say nothing of this machine any more.
    let (of, count) = hit.values().fold((0, 0), |(of, count), one| (of + one.0, count + one.1));
    assert!(alone.is_some() || count * 2 > of, "only {count} of {of} kills met somebody: {hit:?}");
}

/// One round up to the end of its cleanup; whether somebody was killed.
fn play(place: &Place, round: &Round, story: &Story<'_>) -> bool {
    prepare(place, round);
    let over = AtomicBool::new(false);
    let struck = thread::scope(|scope| {
        let neighbour = scope.spawn(|| neighbour(place, round, &over));
        let until = Until(&over);
        let mut command = place.smolvm(&round.args()).timeout(BOOT).spawn();
        thread::sleep(round.delay);
        let killed = strike(place, round, &mut command);
        story.add(format_args!("killed: {killed:?}"));
        let ran = command.wait();
        story.add(&ran);
        judge(round, &ran, !killed.is_empty());
        let next = match round.next {
            "list" => place.smolvm(&["list", "--json"]),
            verb => place.smolvm(&[verb, "--json", &round.name]),
        };
        let ran = next.timeout(BOOT).run();
        story.add(&ran);
        let failure = answer::failure(round.next, &ran);
        assert!(failure.is_none_or(|code| round.next_may_fail_with().contains(&code)), "{round}\n{ran}");
        drop(until);
        neighbour.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        !killed.is_empty()
    });
    clean(place, round, story);
    struck
}

/// Brings the sandbox into the state the verb is tried on.
fn prepare(place: &Place, round: &Round) {
    match round.before {
        Before::Nothing => {}
        Before::Created => place.create(&round.name, &[]),
        Before::Stale => place.seed(&[&round.name]),
        Before::Running => drop(place.boot(&[&round.name])),
    }
}

/// The load: sandboxes made and deleted in the same installation. What is killed is none of theirs, so
/// nothing of it may fail, unless a cleanup of everything was to take them too.
fn neighbour(place: &Place, round: &Round, over: &AtomicBool) {
    let taken = round.verb == Verb::Cleanup && round.everything;
    let overtaken = [ErrorCode::Busy, ErrorCode::NotFound, ErrorCode::Changed, ErrorCode::AlreadyExists];
    while !over.load(Ordering::Relaxed) {
        for args in
            [&["create", "--json", "--image", "minimal", "--name", "neighbour", "--net", "tap"][..], &["delete", "--json", "neighbour"]]
        {
            let ran = place.smolvm(args).run();
            let failure = answer::failure(args[0], &ran);
            assert!(failure.is_none_or(|code| taken && overtaken.contains(&code)), "the neighbour was disturbed\n{round}\n{ran}");
        }
    }
}

/// Kills the victims. One that is not there yet is waited for, as long as the command lives that is to make it.
fn strike(place: &Place, round: &Round, command: &mut Running) -> Vec<String> {
    let mark = place.mark(&round.name);
    loop {
        let ended = command.has_ended();
        let (monitors, hypervisors) = processes(&mark);
        let (monitors, hypervisors) = match round.victim {
            Command | Group => (Vec::new(), Vec::new()),
            Monitor => (monitors, Vec::new()),
            Hypervisor => (Vec::new(), hypervisors),
            Both | Everybody => (monitors, hypervisors),
        };
        let mut killed = Vec::new();
        if round.kills_command() && !ended {
            if round.victim == Command {
                command.signal(Signal::KILL);
            } else {
                command.signal_group(Signal::KILL);
            }
            killed.push("the command".to_owned());
        }
        for process in monitors.iter().chain(&hypervisors) {
            if process.signal(Signal::KILL) {
                killed.push(process.describe());
            }
        }
        if !killed.is_empty() || ended {
            return killed;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The sandbox's monitor, and what the monitor started: the hypervisor, or what becomes it.
fn processes(mark: &str) -> (Vec<Process>, Vec<Process>) {
    let of_monitor = |process: &Process| process.argv.get(1).is_some_and(|word| word == "monitor");
    let marked: Vec<Process> = process::all().into_iter().filter(|process| process.argv.iter().any(|word| word == mark)).collect();
    let pids: Vec<i32> = marked.iter().map(|process| process.pid).collect();
    marked.into_iter().partition(|process| of_monitor(process) && !pids.contains(&process.parent))
}

/// How the command ended that was at work when the kill came.
fn judge(round: &Round, ran: &Ran, struck: bool) {
    if round.kills_command() && ran.signal() == Some(9) {
        return;
    }
    let failure = answer::failure(round.word(), ran);
    // A cleanup of everything may meet the neighbour in the middle of something, whether or not anybody was killed.
    let met = struck || (round.verb == Verb::Cleanup && round.everything);
    assert!(failure.is_none_or(|code| met && round.may_fail_with().contains(&code)), "{round}\n{ran}");
    if round.verb == Verb::Cleanup {
        let codes = answer::failed_codes(ran);
        assert!(codes.iter().all(|code| matches!(code.as_str(), "busy" | "changed")), "{round}\n{ran}");
    }
}

/// `cleanup --all --force` exits 0 and nothing is left. A monitor whose starter was killed works on: while
/// it writes, its sandbox may be told as busy or changed, and the next cleanup takes it.
fn clean(place: &Place, round: &Round, story: &Story<'_>) {
    let cleaned = testkit::until("a cleanup that finds nobody at work", SOON, || {
        let cleaned = place.cleanup(&["--all", "--force"]);
        story.add(cleaned.shown());
        let failed = cleaned.failed();
        assert!(failed.iter().all(|(_, code)| matches!(*code, "busy" | "changed")), "{round}\n{}", cleaned.shown());
        failed.is_empty().then_some(cleaned)
    });
    cleaned.assert_ok();
    assert!(place.ids().is_empty(), "{round}\n{}", cleaned.shown());
}
