//! The seam between the plan and the host: one call a rank, each for all sandboxes together.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use smolvm_host::effect::{Permit, perform};
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind};
use smolvm_model::teardown::{Outcome, Reason};

use crate::error::Error;
use crate::installation::Smolvm;

/// What a plan does to a host, from several threads. Outcomes come in the order of the entries.
pub(crate) trait Effects: Sync {
    /// Ends hypervisors.
    fn end_hypervisors(&self, entries: &[&Entry]) -> Vec<Outcome>;
    /// Ends monitors.
    fn end_monitors(&self, entries: &[&Entry]) -> Vec<Outcome>;
    /// Removes filter elements.
    fn remove_elements(&self, entries: &[&Entry]) -> Vec<Outcome>;
    /// Removes TAPs.
    fn remove_taps(&self, entries: &[&Entry]) -> Vec<Outcome>;
    /// Removes run directories or state directories.
    fn remove_dirs(&self, kind: Kind, entries: &[&Entry]) -> Vec<Outcome>;
    /// Looks whether any of it is still there.
    fn still_there(&self, entries: &[&Entry]) -> Vec<Sight>;
    /// Bytes of disk freed so far.
    fn freed_bytes(&self) -> u64;
}

/// What a second look at the host shows of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing is there.
    Gone,
    /// This is.
    There(String),
    /// The host does not tell, so nothing is proven.
    Unseen {
        /// Stable code.
        code: ErrorCode,
        /// Why it does not.
        message: String,
    },
}

/// How long processes get to end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Their disk stays: they may write what they hold.
    Orderly,
    /// Their disk goes too.
    Short,
}

impl From<Reason> for Patience {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Stop => Self::Orderly,
            Reason::Delete => Self::Short,
        }
    }
}

/// The real host.
#[derive(Debug)]
pub(crate) struct HostEffects<'a> {
    pub(super) vm: &'a Smolvm,
    pub(super) patience: Patience,
    /// The process that does this teardown, if it is itself a monitor in the plan.
    pub(super) own_pid: u32,
    /// Hypervisors that were asked to end before the plan was made, by pid and start: they are gone because of this teardown.
    pub(super) asked: HashSet<(u32, u64)>,
    freed: AtomicU64,
}

impl<'a> HostEffects<'a> {
    pub(crate) fn new(vm: &'a Smolvm, patience: Patience) -> Self {
        Self { vm, patience, own_pid: std::process::id(), asked: HashSet::new(), freed: AtomicU64::new(0) }
    }
}

/// One effect for all entries; what fails as a whole fails for each of them.
fn together(effect: Effect, entries: &[&Entry], mut act: impl FnMut(&Permit) -> Vec<Outcome>) -> Vec<Outcome> {
    perform(effect, |permit| Ok::<_, Error>(act(permit)))
        .unwrap_or_else(|e| vec![Outcome::Failed { code: e.code, message: e.one_line() }; entries.len()])
}

impl Effects for HostEffects<'_> {
    fn end_hypervisors(&self, entries: &[&Entry]) -> Vec<Outcome> {
        together(Effect::EndHypervisors, entries, |_| self.end_processes(entries))
    }

    fn end_monitors(&self, entries: &[&Entry]) -> Vec<Outcome> {
        together(Effect::EndMonitors, entries, |_| self.end_processes(entries))
    }

    fn remove_elements(&self, entries: &[&Entry]) -> Vec<Outcome> {
        together(Effect::RemoveElements, entries, |permit| super::elements::remove(permit, self.vm, entries))
    }

    fn remove_taps(&self, entries: &[&Entry]) -> Vec<Outcome> {
        together(Effect::RemoveTaps, entries, |permit| super::taps::remove(permit, self.vm, entries))
    }

    fn remove_dirs(&self, kind: Kind, entries: &[&Entry]) -> Vec<Outcome> {
        let effect = if kind == Kind::RunDir { Effect::RemoveRunDirs } else { Effect::RemoveStateDirs };
        together(effect, entries, |_| {
            let (outcomes, freed) = super::dirs::remove(self.vm, kind, entries);
            self.freed.fetch_add(freed, Ordering::Relaxed);
            outcomes
        })
    }

    fn still_there(&self, entries: &[&Entry]) -> Vec<Sight> {
        self.look_again(entries)
    }

    fn freed_bytes(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }
}
