//! What a test wants to happen at a point, in a build with debug assertions.
//!
//! ```text
//!   kill@after:tap            SIGKILL, the first time any process of the verb has passed after:tap
//!   stop@after:tap            SIGSTOP: it stands there until somebody lets it go on
//!   enospc@before:tap#2       the second time: fails, without having happened (after: although it has)
//!   twice@before:tap          the effect happens twice, every time
//!   forget@before:ledger/…    the transaction is rolled back, and success is told, every time
//!   trust-pids                a process is taken for the recorded one by its number alone
//! ```
//!
//! A line of the trace is `PID POINT FILE:LINE`, the last where the code asked for it.
//! Passages are counted over all processes that write the same trace, in the order of its lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::panic::Location;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use smolvm_model::effect::{Act, Commit, Effect, Point};

use super::ArmError;

/// What is to happen, where, and at which passage.
#[derive(Debug, PartialEq)]
struct Order {
    what: What,
    point: Point,
    /// From 1.
    passage: usize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// The process gets SIGKILL.
    Kill,
    /// The process gets SIGSTOP.
    Stop,
    /// The act fails: before it, without having happened; after it, although it has.
    Fail(Errno),
    /// The effect happens twice.
    Twice,
    /// The transaction is rolled back, and success is told.
    Forget,
}

#[derive(Debug)]
struct Armed {
    order: Option<Order>,
    trusts_pids: bool,
    trace: Mutex<File>,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

/// The order for a build that is broken in the oldest way.
const TRUST_PIDS: &str = "trust-pids";

const ERRORS: [(&str, Errno); 5] =
    [("eperm", Errno::PERM), ("enospc", Errno::NOSPC), ("eio", Errno::IO), ("ebusy", Errno::BUSY), ("etimedout", Errno::TIMEDOUT)];

/// Takes a test's order for this process; the first one counts. To `trace` a line is appended for every point passed.
///
/// # Errors
/// If the order is none or comes without a trace, or the trace cannot be opened.
pub fn arm(order: Option<&str>, trace: Option<&Path>) -> Result<(), ArmError> {
    let Some(trace) = trace else { return order.map_or(Ok(()), |text| Err(ArmError::Order { text: text.to_owned() })) };
    let trusts_pids = order == Some(TRUST_PIDS);
    let order =
        order.filter(|_| !trusts_pids).map(|text| parse(text).ok_or_else(|| ArmError::Order { text: text.to_owned() })).transpose()?;
    let trace = OpenOptions::new().create(true).append(true).read(true).open(trace).map_err(ArmError::Trace)?;
    // A second call in one process changes nothing: its orders would contradict the first one's.
    let _ = ARMED.set(Armed { order, trusts_pids, trace: Mutex::new(trace) });
    Ok(())
}

fn parse(text: &str) -> Option<Order> {
    let (what, place) = text.split_once('@')?;
    let (point, passage) = place.split_once('#').unwrap_or((place, "1"));
    let what = match what {
        "kill" => What::Kill,
        "stop" => What::Stop,
        "twice" => What::Twice,
        "forget" => What::Forget,
        other => What::Fail(ERRORS.into_iter().find(|(name, _)| *name == other)?.1),
    };
    Some(Order { what, point: point.parse().ok()?, passage: passage.parse().ok().filter(|n| *n > 0)? })
}

pub(super) fn reach(point: Point, at: &Location<'_>) -> io::Result<()> {
    let Some(armed) = ARMED.get() else { return Ok(()) };
    let passage = pass(&armed.trace, point, at)?;
    let Some(order) = armed.order.as_ref().filter(|order| order.point == point) else { return Ok(()) };
    match order.what {
        What::Twice | What::Forget => Ok(()),
        What::Kill | What::Stop | What::Fail(_) if passage != order.passage => Ok(()),
        What::Kill => {
            let _ = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
        What::Stop => Ok(kill_process(getpid(), Signal::STOP)?),
        What::Fail(errno) => Err(errno.into()),
    }
}

/// Adds a line to the trace, and counts the passages of this point up to that very line: other threads and processes
/// add theirs at the same time, and each number must be one passage's.
fn pass(trace: &Mutex<File>, point: Point, at: &Location<'_>) -> io::Result<usize> {
    let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
    // One write, so that lines of several processes do not mix; it leaves the file's position behind them.
    trace.write_all(format!("{} {point} {}:{}\n", std::process::id(), at.file(), at.line()).as_bytes())?;
    let end = trace.stream_position()?;
    let mut text = String::new();
    trace.seek(SeekFrom::Start(0))?;
    (&*trace).take(end).read_to_string(&mut text)?;
    let name = point.to_string();
    Ok(text.lines().filter(|line| line.split(' ').nth(1) == Some(&name)).count())
}

pub(super) fn again(effect: Effect) -> bool {
    ARMED.get().and_then(|a| a.order.as_ref()).is_some_and(|o| o.what == What::Twice && o.point.act == Act::Effect(effect))
}

pub(super) fn forgets(commit: Commit) -> bool {
    ARMED.get().and_then(|a| a.order.as_ref()).is_some_and(|o| o.what == What::Forget && o.point.act == Act::Commit(commit))
}

pub(super) fn trusts_pids() -> bool {
    ARMED.get().is_some_and(|a| a.trusts_pids)
}

#[cfg(test)]
mod tests {
    use smolvm_model::effect::Side;

    use super::*;

    #[test]
    fn every_passage_has_a_number_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trace");
        let open = || Mutex::new(OpenOptions::new().create(true).append(true).read(true).open(&path).unwrap());
        let point = Point { act: Act::Effect(Effect::Blob), side: Side::Before };
        // Two processes, as far as the file knows, of four threads each.
        let (one, other) = (open(), open());
        let mut numbers: Vec<usize> = std::thread::scope(|scope| {
            let passing = |trace| scope.spawn(move || (0..50).map(|_| pass(trace, point, Location::caller()).unwrap()).collect::<Vec<_>>());
            let threads: Vec<_> = [&one, &other].into_iter().flat_map(|trace| [(); 4].map(|()| passing(trace))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
    }

    #[test]
    fn orders() {
        let tap = |side| Point { act: Act::Effect(Effect::Tap), side };
        let table = [
            ("kill@after:tap", Some(Order { what: What::Kill, point: tap(Side::After), passage: 1 })),
            ("enospc@before:tap#3", Some(Order { what: What::Fail(Errno::NOSPC), point: tap(Side::Before), passage: 3 })),
            ("twice@before:tap", Some(Order { what: What::Twice, point: tap(Side::Before), passage: 1 })),
            ("stop@after:tap#2", Some(Order { what: What::Stop, point: tap(Side::After), passage: 2 })),
            ("kill@tap", None),
            ("kill", None),
            ("kill@after:tap#0", None),
            ("nap@after:tap", None),
            ("", None),
        ];
        for (text, want) in table {
            assert_eq!(parse(text), want, "{text}");
        }
        assert!(matches!(arm(Some("kill@after:tap"), None), Err(ArmError::Order { .. })), "an order needs a trace to count in");
    }
}
