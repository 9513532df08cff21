//! The teardown plan: derived from the ledger, never stored.
//!
//! ```text
//!   ledger entries of N sandboxes ──► Plan (steps by rank) ──► effects, one batch a rank, wave after wave
//!                                                     │
//!                              outcomes ──► Tracker: a failure blocks its dependents, nothing else
//!
//!   wave    1 Process    2 Monitor    3 Unrecorded    4 NftElements    5 Reservation
//!                                                       Tap
//!                                                       RunDir, StateDir
//! ```
//!
//! Rollback, `stop`, `delete`, `cleanup`, recovery after a crash and after a reboot of the host are
//! this one path. Running a plan twice frees nothing twice: the second time every step finds its
//! resource gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::error_code::ErrorCode;
use crate::ledger::{Entry, Kind, Lifetime, Status};
use crate::name::SandboxId;

/// How much of a sandbox is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Release what a run holds; disk and reserved names stay.
    Stop,
    /// Everything.
    Delete,
}

/// When a step runs: all of one rank together, and what a rank depends on in an earlier one of [`WAVES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// The hypervisor first: nothing it might hold is touched before.
    Process,
    /// Then its monitor.
    Monitor,
    /// A hypervisor that nobody wrote down: its monitor may be about to start it, so it is looked for when that has ended. Nobody wrote down that
    /// monitor either, and what is found with it ends with it; mostly nothing is left.
    Unrecorded,
    /// What lets packets through.
    NftElements,
    /// The device.
    Tap,
    /// Sockets and the run directory.
    RunDir,
    /// Disk and logs.
    StateDir,
    /// Names that exist only in the database, once everything that used them is gone.
    Reservation,
}

/// Ranks one after the other, by one thread.
pub type Lane = &'static [Rank];

/// The order of a teardown: wave after wave, and the lanes of a wave at the same time, for they have nothing to do with each other.
///
/// The kernel lets everybody wait who removes an element (some 10 ms) or a device (some 25 ms) until each processor has forgotten it: one
/// wait for both, and the files go meanwhile.
pub const WAVES: [&[Lane]; 5] = [
    &[&[Rank::Process]],
    &[&[Rank::Monitor]],
    &[&[Rank::Unrecorded]],
    &[&[Rank::NftElements], &[Rank::Tap], &[Rank::RunDir, Rank::StateDir]],
    &[&[Rank::Reservation]],
];

/// The rank of an entry.
pub fn rank(entry: &Entry) -> Rank {
    match entry.kind {
        Kind::Process if entry.is_unrecorded() => Rank::Unrecorded,
        Kind::Process => Rank::Process,
        Kind::Monitor => Rank::Monitor,
        Kind::NftElements => Rank::NftElements,
        Kind::Tap => Rank::Tap,
        Kind::RunDir => Rank::RunDir,
        Kind::StateDir => Rank::StateDir,
        Kind::Address | Kind::Mac | Kind::Uid => Rank::Reservation,
    }
}

/// What must be settled before a kind may be touched, within one sandbox; what has not been tried yet is in nobody's way.
pub fn depends_on(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::Process => &[],
        Kind::Monitor | Kind::NftElements | Kind::Tap | Kind::Uid => &[Kind::Process],
        Kind::RunDir | Kind::StateDir => &[Kind::Process, Kind::Monitor],
        // An address whose filter element or device is still there must not be handed out again.
        Kind::Address | Kind::Mac => &[Kind::Process, Kind::NftElements, Kind::Tap],
    }
}

/// One thing to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The ledger entry it is derived from.
    pub entry: Entry,
    /// What becomes of the entry once the resource is proven gone.
    pub after: After,
}

/// What becomes of a ledger entry after its step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It goes.
    Drop,
    /// It stays as a reserved name.
    Reserve,
}

/// Steps in the order in which they run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps by rank; within a rank by sandbox and key.
    pub ranks: BTreeMap<Rank, Vec<Step>>,
}

impl Plan {
    /// Derives the plan for all entries given, of any number of sandboxes.
    pub fn teardown(entries: &[Entry], reason: Reason) -> Self {
        let mut ranks: BTreeMap<Rank, Vec<Step>> = BTreeMap::new();
        for entry in entries {
            let after = match (reason, entry.kind.lifetime()) {
                (Reason::Delete, _) | (Reason::Stop, Lifetime::Run) => After::Drop,
                (Reason::Stop, Lifetime::RunUnderReservedName) => After::Reserve,
                (Reason::Stop, Lifetime::Sandbox) => continue,
            };
            ranks.entry(rank(entry)).or_default().push(Step { entry: entry.clone(), after });
        }
        for steps in ranks.values_mut() {
            steps.sort_by(|a, b| (&a.entry.sandbox, a.entry.kind, &a.entry.key).cmp(&(&b.entry.sandbox, b.entry.kind, &b.entry.key)));
        }
        Self { ranks }
    }

    /// Every step in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.ranks.values().flatten()
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was there and is gone.
    Released,
    /// It was not there.
    AlreadyGone,
    /// It is there and not ours.
    Refused {
        /// Whose it seems to be.
        found_owner: String,
    },
    /// It may still be there.
    Failed {
        /// Stable code.
        code: ErrorCode,
        /// What happened.
        message: String,
    },
    /// It was not tried, because something it depends on is not settled.
    Skipped {
        /// The kind it waits for.
        blocked_by: Kind,
    },
}

impl Outcome {
    /// Whether the resource is proven not to be ours on the host any more.
    ///
    /// A stranger's resource under our name counts: what was ours is gone, and the stranger's stays.
    pub fn is_settled(&self) -> bool {
        match self {
            Self::Released | Self::AlreadyGone | Self::Refused { .. } => true,
            Self::Failed { .. } | Self::Skipped { .. } => false,
        }
    }

    /// The word in reports.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::AlreadyGone => "already_gone",
            // Whose it is could not be proven: it is left alone like a stranger's, and stays recorded.
            Self::Refused { .. } | Self::Failed { code: ErrorCode::Refused, .. } => "refused",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }
}

/// Remembers what is not settled, so that dependents are left alone.
#[derive(Debug, Default)]
pub struct Tracker {
    unsettled: BTreeMap<SandboxId, BTreeSet<Kind>>,
}

impl Tracker {
    /// The kind that blocks this entry, if one does.
    pub fn blocker(&self, entry: &Entry) -> Option<Kind> {
        let unsettled = self.unsettled.get(&entry.sandbox)?;
        if rank(entry) == Rank::Unrecorded && unsettled.contains(&Kind::Monitor) {
            return Some(Kind::Monitor);
        }
        depends_on(entry.kind).iter().copied().find(|kind| unsettled.contains(kind))
    }

    /// Notes a step's outcome.
    pub fn note(&mut self, entry: &Entry, outcome: &Outcome) {
        if !outcome.is_settled() {
            self.unsettled.entry(entry.sandbox.clone()).or_default().insert(entry.kind);
        }
    }

    /// Whether everything of a sandbox was settled.
    pub fn is_clear(&self, sandbox: &SandboxId) -> bool {
        !self.unsettled.contains_key(sandbox)
    }
}

/// Whether an entry can have left something on the host.
pub fn may_exist(entry: &Entry) -> bool {
    match entry.status {
        Status::Reserved => false,
        Status::Intended | Status::Held => match entry.kind {
            Kind::Address | Kind::Mac | Kind::Uid => false,
            Kind::Process | Kind::Monitor | Kind::NftElements | Kind::Tap | Kind::RunDir | Kind::StateDir => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ProcessIdentity;
    use proptest::prelude::*;

    fn entry(sandbox: &str, kind: Kind, status: Status) -> Entry {
        let is_known = matches!(kind, Kind::Process | Kind::Monitor) && status == Status::Held;
        let identity = is_known.then(|| ProcessIdentity { pid: 2, start_ticks: 1, boot_id: String::new(), token: String::new() });
        Entry { sandbox: sandbox.parse().unwrap(), kind, key: format!("{sandbox}-{kind}"), status, identity }
    }

    #[test]
    fn a_hypervisor_that_nobody_wrote_down_goes_after_the_monitor_that_may_start_it() {
        let of = |kind, status| rank(&entry("a", kind, status));
        assert!(of(Kind::Process, Status::Held) < of(Kind::Monitor, Status::Held));
        assert!(of(Kind::Monitor, Status::Intended) < of(Kind::Process, Status::Intended));
        assert!(of(Kind::Process, Status::Intended) < of(Kind::NftElements, Status::Held));
        assert_eq!(of(Kind::Process, Status::Reserved), Rank::Process, "a name means no process");
    }

    #[test]
    fn a_hypervisor_that_nobody_wrote_down_waits_for_its_monitor() {
        let mut tracker = Tracker::default();
        let failed = Outcome::Failed { code: ErrorCode::Timeout, message: String::new() };
        tracker.note(&entry("a", Kind::Monitor, Status::Intended), &failed);
        assert_eq!(tracker.blocker(&entry("a", Kind::Process, Status::Intended)), Some(Kind::Monitor), "it may start one yet");
        assert_eq!(tracker.blocker(&entry("a", Kind::Process, Status::Held)), None);
        assert_eq!(tracker.blocker(&entry("b", Kind::Process, Status::Intended)), None);
    }

    #[test]
    fn dependencies_have_a_lower_rank_and_an_earlier_wave() {
        let of = |kind| rank(&entry("a", kind, Status::Held));
        let wave = |kind| WAVES.iter().position(|lanes| lanes.concat().contains(&of(kind))).unwrap();
        for kind in Kind::ALL {
            for earlier in depends_on(kind) {
                assert!(of(*earlier) < of(kind) && wave(*earlier) < wave(kind), "{kind} before {earlier}");
            }
        }
        // Each rank once, and reports have them in their order.
        let run: Vec<Rank> = WAVES.concat().concat();
        assert!(run.is_sorted_by(|a, b| a < b), "{run:?}");
        assert!(Kind::ALL.iter().all(|kind| run.contains(&of(*kind))));
    }

    #[test]
    fn stop_keeps_disk_and_names() {
        let all: Vec<_> = Kind::ALL.iter().map(|k| entry("a", *k, Status::Held)).collect();
        let plan = Plan::teardown(&all, Reason::Stop);
        let kept: Vec<_> = plan.steps().filter(|s| s.after == After::Reserve).map(|s| s.entry.kind).collect();
        assert_eq!(kept, [Kind::NftElements, Kind::Tap]);
        assert!(plan.steps().all(|s| s.entry.kind != Kind::StateDir && s.entry.kind != Kind::Address));
        assert_eq!(Plan::teardown(&all, Reason::Delete).steps().count(), all.len());
    }

    #[test]
    fn a_refusal_that_is_a_failure_reads_as_a_refusal_and_is_not_settled() {
        let failed = |code| Outcome::Failed { code, message: String::new() };
        let stranger = Outcome::Refused { found_owner: String::new() };
        assert_eq!((failed(ErrorCode::Refused).as_str(), failed(ErrorCode::Refused).is_settled()), ("refused", false));
        assert_eq!((failed(ErrorCode::Timeout).as_str(), stranger.as_str(), stranger.is_settled()), ("failed", "refused", true));
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let one = (0..4_u8, 0..Kind::ALL.len(), 0..3_u8).prop_map(|(s, k, st)| {
            let status = [Status::Reserved, Status::Intended, Status::Held][usize::from(st)];
            entry(&format!("vm-{s}"), Kind::ALL[k], status)
        });
        prop::collection::vec(one, 0..40).prop_map(|mut v| {
            v.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
            v.dedup_by(|a, b| (a.kind, &a.key) == (b.kind, &b.key));
            v
        })
    }

    proptest! {
        #[test]
        fn a_plan_frees_each_entry_once_and_in_order(list in entries()) {
            let plan = Plan::teardown(&list, Reason::Delete);
            let mut seen = BTreeSet::new();
            let mut last = Rank::Process;
            for step in plan.steps() {
                prop_assert!(seen.insert((step.entry.kind, step.entry.key.clone())));
                prop_assert!(rank(&step.entry) >= last);
                last = rank(&step.entry);
            }
            prop_assert_eq!(seen.len(), list.len());
        }

        #[test]
        fn a_failure_blocks_its_dependents_and_no_other_sandbox(list in entries(), broken in 0..40_usize) {
            let plan = Plan::teardown(&list, Reason::Delete);
            let mut tracker = Tracker::default();
            let mut failed: Option<Entry> = None;
            for (i, step) in plan.steps().enumerate() {
                let outcome = match tracker.blocker(&step.entry) {
                    Some(kind) => {
                        let f = failed.as_ref().expect("blocked without a failure");
                        prop_assert_eq!(&f.sandbox, &step.entry.sandbox);
                        let waits_for_its_monitor = rank(&step.entry) == Rank::Unrecorded && kind == Kind::Monitor;
                        prop_assert!(waits_for_its_monitor || depends_on(step.entry.kind).contains(&kind));
                        Outcome::Skipped { blocked_by: kind }
                    }
                    None if i == broken => {
                        failed = Some(step.entry.clone());
                        Outcome::Failed { code: ErrorCode::Internal, message: String::new() }
                    }
                    None => Outcome::Released,
                };
                tracker.note(&step.entry, &outcome);
            }
            for e in &list {
                let hit = failed.as_ref().is_some_and(|f| f.sandbox == e.sandbox);
                prop_assert_eq!(tracker.is_clear(&e.sandbox), !hit);
            }
        }
    }
}
