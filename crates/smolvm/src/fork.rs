//! `fork`: copies of a sandbox as it runs, each of them running.
//!
//! ```text
//!   source ─ lock ─► copied (halted for milliseconds) ─► unlocked      copies ─► created, restored, some at a time
//! ```
//!
//! What was copied has no name and is gone with the command; the copies hold the files open. All of them are made, or none.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smolvm_host::image::snapshot::{Draft, Kind};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::Spec;
use smolvm_model::state::{Admission, Request};

use crate::copy::{CopyWanted, Order, Sync, Whole, accelerator_of};
use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::snapshot::unusable;
use crate::start::{CopyOf, DEADLINE, Machine, Patience};
use crate::view::SandboxView;

/// Copies that one command makes at most; each is a process, a device and a uid.
pub const MOST_COPIES: u16 = 1000;

/// What `fork` is asked for.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    /// What is copied.
    pub source: SandboxId,
    /// How many copies; at least one.
    pub count: u16,
    /// The copy's name, or what the names of several begin with; drawn without one.
    pub name: Option<SandboxId>,
    /// Their time to live.
    pub ttl: Option<Span>,
    /// How long each may take until its agent answers.
    pub deadline: Duration,
}

impl ForkRequest {
    /// One copy with a drawn name.
    pub fn of(source: SandboxId) -> Self {
        Self { source, count: 1, name: None, ttl: None, deadline: DEADLINE }
    }
}

/// What `fork` did.
#[derive(Debug, Clone, PartialEq)]
pub struct Forked {
    /// The copies.
    pub sandboxes: Vec<SandboxView>,
    /// How long the source stood still.
    pub halted: Duration,
    /// Memory that it had to itself.
    pub own_bytes: u64,
}

impl Smolvm {
    /// Makes running copies of a running sandbox; given up and taken back as soon as `signals` can be read.
    pub fn fork(&self, request: &ForkRequest, signals: Option<BorrowedFd<'_>>) -> Result<Forked, Error> {
        let names = names(request)?;
        let root = self.paths().snapshots();
        let missing = || Error::no_such_sandbox(&request.source);
        let store = self.store_if_any()?.ok_or_else(missing)?;
        store.sandbox(&request.source)?.ok_or_else(missing)?;
        // Another fork of the same source may be starting its copies: that is waited for without the source's lock.
        let draft = Draft::of_fork(&root, &request.source, request.deadline).map_err(unusable)?;
        let lock = self.lock_existing(&store, &request.source, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(&request.source)?.ok_or_else(missing)?;
        match self.admit(&record, &entries, Request::Pause)? {
            Admission::Refused(refusal) => return Err(Error::refused_by_state(&request.source, refusal)),
            Admission::Go | Admission::AlreadySo | Admission::ReclaimThenGo => {}
        }
        let accelerator = accelerator_of(&record);
        self.refuse_another_hypervisor(&record)?;
        let wanted = CopyWanted { kind: Kind::Machine, sync: Sync::No, order: Order::OwnFirst, signals };
        let copied = self.copy_running(&record, &entries, &draft.files(), wanted)?;
        // The ledger stays open: who closes it last writes its log back, and who opens it next begins anew.
        drop(lock);
        let spec = Spec { restored_from: Some(request.source.clone()), ..record.spec };
        let whole: Option<Arc<Whole>> = copied.rest.as_ref().map(|_| Arc::default());
        let machine = Machine { files: &draft.files(), of: CopyOf::Sandbox(&request.source), accelerator, whole: whole.as_ref() };
        let one = |name: &Option<SandboxId>| {
            self.copy_of((name.as_ref(), request.ttl), &spec, machine, None, Patience::new(request.deadline, signals))
        };
        let rest = Mutex::new(copied.rest);
        let made = std::thread::scope(|scope| {
            if let Some(whole) = &whole {
                let fill = || {
                    if let Some(rest) = rest.lock().unwrap_or_else(PoisonError::into_inner).take() {
                        whole.tell(rest.fill(whole, &request.source));
                    }
                };
                // Where no thread can be had, it is done first.
                if std::thread::Builder::new().spawn_scoped(scope, fill).is_err() {
                    fill();
                }
            }
            let made = at_once(&names, one);
            // Those that are up waited for it; where one failed nobody does.
            if let Some(whole) = &whole {
                whole.give_up();
            }
            made
        });
        let made = made.map_err(|(made, e)| self.take_back(&made, e))?;
        let sandboxes = made.iter().map(|made| Ok(self.inspect(&made.id)?.sandbox)).collect::<Result<_, Error>>()?;
        drop(store);
        Ok(Forked { sandboxes, halted: copied.halted, own_bytes: copied.own_bytes })
    }
}

/// How many are made at the same time at most: each waits for the database, for the packet filter, for its hypervisor and for
/// its guest in turn.
const AT_ONCE: usize = 4;

/// … and for each processor: half of the time somebody waits for the kernel and not for that.
const PER_PROCESSOR: usize = 2;

/// Makes all of them, some at a time, and gives them in their order; after the first that fails no other is begun.
fn at_once<I: std::marker::Sync, T: Send>(
    items: &[I],
    make: impl Fn(&I) -> Result<T, Error> + std::marker::Sync,
) -> Result<Vec<T>, (Vec<T>, Error)> {
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<(usize, Result<T, Error>)>> = Mutex::default();
    let work = || {
        while let Some((number, item)) = items.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = make(item);
            if outcome.is_err() {
                next.store(items.len(), Ordering::Relaxed);
            }
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = items.len().min(AT_ONCE).min(processors * PER_PROCESSOR);
    // One of them is this thread: a single copy starts none.
    std::thread::scope(|scope| {
        // Where no thread can be had, this one makes them all.
        (1..workers).for_each(|_| drop(std::thread::Builder::new().spawn_scoped(scope, work)));
        work();
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(number, _)| *number);
    let (mut done, mut failed) = (Vec::new(), None);
    for (_, outcome) in outcomes {
        match outcome {
            Ok(one) => done.push(one),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match failed {
        None => Ok(done),
        Some(e) => Err((done, e)),
    }
}

/// The names of the copies.
fn names(request: &ForkRequest) -> Result<Vec<Option<SandboxId>>, Error> {
    let count = request.count;
    if count == 0 || count > MOST_COPIES {
        return Err(Error::new(ErrorCode::UsageError, format!("{count} copies cannot be made: at least 1, at most {MOST_COPIES}")));
    }
    let Some(name) = &request.name else { return Ok(vec![None; usize::from(count)]) };
    if count == 1 {
        return Ok(vec![Some(name.clone())]);
    }
    let numbered = |number: u16| {
        format!("{name}-{number}")
            .parse()
            .map(Some)
            .map_err(|e| Error::new(ErrorCode::UsageError, format!("\"{name}\" is too long for the names of {count} copies")).because(e))
    };
    (1..=count).map(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_made_in_their_order_and_none_is_begun_after_one_failed() {
        let numbers: Vec<u32> = (0..100).collect();
        assert_eq!(at_once(&numbers, |n| Ok(n * 2)).unwrap(), numbers.iter().map(|n| n * 2).collect::<Vec<_>>());
        let begun = AtomicUsize::new(0);
        let fails = |n: &u32| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *n == 3 { Err(Error::new(ErrorCode::Busy, "no")) } else { Ok(*n) }
        };
        let (made, error) = at_once(&numbers, fails).unwrap_err();
        assert_eq!(error.code, ErrorCode::Busy);
        assert_eq!(made.len() + 1, begun.into_inner(), "what was made is given back, to be taken back");
        assert!(made.len() < 99);
    }

    #[test]
    fn several_copies_are_numbered_and_their_names_must_fit() {
        let request = |count, name: Option<&str>| ForkRequest {
            count,
            name: name.map(|name| name.parse().unwrap()),
            ..ForkRequest::of("vm-a".parse().unwrap())
        };
        let text = |request: &ForkRequest| names(request).unwrap().into_iter().map(|n| n.map(|n| n.to_string())).collect::<Vec<_>>();
        assert_eq!(text(&request(1, Some("b"))), [Some("b".to_owned())]);
        assert_eq!(text(&request(2, Some("b"))), [Some("b-1".to_owned()), Some("b-2".to_owned())]);
        assert_eq!(text(&request(2, None)), [None, None]);
        let long = "a".repeat(62);
        for (count, name) in [(0, None), (1001, None), (2, Some(long.as_str()))] {
            assert_eq!(names(&request(count, name)).unwrap_err().code, ErrorCode::UsageError);
        }
    }
}
