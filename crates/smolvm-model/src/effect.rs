//! Everything smolvm does that outlives the process that does it, by name.
//!
//! ```text
//!   before intent ─► Commit that intends ─► after intent ─► Effect ─► after effect ─► Commit that records ─► after record
//!                    (one transaction)                  (on the host)                  (one transaction)
//! ```
//!
//! An [`Effect`] changes the host, a [`Commit`] the ledger. Which commit announces an effect and which
//! one writes down that it is done is data here, so that a test can hold every run of every verb
//! against it, and can end the process at each of the four points around every effect.
//!
//! Invariant: an effect that makes something is announced, or finds its own traces again
//! ([`Announcement::BySelf`]: what it makes says what it is and is swept by whoever comes next).

use std::fmt;

/// Declares an enum of names together with the list of all of them.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its word in traces and tests.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

names! {
    /// One kind of change of the host.
    Effect {
        /// The installation's own directories.
        Home = "home",
        /// A lock file, by whoever takes the lock first.
        LockFile = "lock-file",
        /// A file in the cache that can be made again at any time: what was measured, an empty disk to copy.
        CacheFile = "cache-file",
        /// A sandbox's directory with its owner file.
        StateDir = "state-dir",
        /// Its data disk: made, and made again at the first start, with what its template has mounted.
        DataDisk = "data-disk",
        /// The directory of a run, with its owner file.
        RunDir = "run-dir",
        /// The variables of a run.
        EnvFile = "env-file",
        /// Forwarding of an uplink, switched on.
        Forwarding = "forwarding",
        /// The table of the installation with the elements of one sandbox.
        Filter = "filter",
        /// A TAP device, with its address, route and settings.
        Tap = "tap",
        /// The monitor's process.
        Monitor = "monitor",
        /// The monitor's socket. Its logs lie in a directory that is on record as a whole.
        MonitorFiles = "monitor-files",
        /// The hypervisor's process with its jail, and the network helper's.
        Hypervisor = "hypervisor",
        /// A guest is halted where it stands.
        Pause = "pause",
        /// And goes on.
        Resume = "resume",
        /// A guest is brought to rest to be copied, and the state of its devices is written beside its disk.
        Freeze = "freeze",
        /// And it goes on.
        Thaw = "thaw",
        /// An empty layer is laid beside a disk, or beside its highest layer: it reads the same with it and without.
        DiskLayer = "disk-layer",
        /// Layers of a disk become one, which reads the same.
        MergeLayers = "merge-layers",
        /// Hypervisors are asked to end, ahead of the teardown that sees to it.
        AskHypervisors = "ask-hypervisors",
        /// Hypervisors end.
        EndHypervisors = "end-hypervisors",
        /// Monitors end.
        EndMonitors = "end-monitors",
        /// Filter elements go.
        RemoveElements = "remove-elements",
        /// TAPs go.
        RemoveTaps = "remove-taps",
        /// Run directories are moved into the trash and unlinked.
        RemoveRunDirs = "remove-run-dirs",
        /// State directories are moved into the trash and unlinked.
        RemoveStateDirs = "remove-state-dirs",
        /// What lies in the trash is unlinked.
        EmptyTrash = "empty-trash",
        /// Lock files of what is deleted go.
        RemoveLockFile = "remove-lock-file",
        /// The installation's table goes.
        DropTable = "drop-table",
        /// Forwarding of an uplink goes back to what it was.
        CloseForwarding = "close-forwarding",
        /// A ledger that is damaged gets another name, and the next command makes a new one.
        SetAside = "set-aside",
        /// System packages are installed.
        InstallPackages = "install-packages",
        /// apt's own directory in the cache: its configuration, sources and lists of packages.
        PackageLists = "package-lists",
        /// A private directory in which something is built; gone with its builder, or with the next one.
        Workdir = "workdir",
        /// A kernel, an initramfs or an image gets its final name.
        Publish = "publish",
        /// A template loses its name.
        DropTemplate = "drop-template",
        /// A snapshot loses its name.
        DropSnapshot = "drop-snapshot",
        /// A name is pointed at what was published.
        PointName = "point-name",
        /// A name of an image goes.
        DropName = "drop-name",
        /// A part of an image, as a registry has it: what of it has come, and then all of it under its digest.
        Blob = "blob",
        /// An image in a file that somebody named: it has its name once it is whole.
        Archive = "archive",
        /// What `setup` made is taken away.
        RemoveCache = "remove-cache",
        /// A process that fills the pool, and ends when it is full.
        Refill = "refill",
        /// A setting in the configuration file.
        ConfigFile = "config-file",
    }
}

names! {
    /// One kind of transaction of the ledger.
    Commit {
        /// The tables.
        Schema = "schema",
        /// The addresses or the uids the installation draws from.
        Range = "range",
        /// A new sandbox and every name it will use.
        Create = "create",
        /// Directory and disk are there.
        Created = "created",
        /// A sandbox that was refused a place is forgotten.
        Forget = "forget",
        /// A start and everything it will make.
        Start = "start",
        /// What all sandboxes share.
        Share = "share",
        /// Run directory, TAP and elements are there.
        Raised = "raised",
        /// Who monitor and hypervisor are.
        Launched = "launched",
        /// The guest has answered.
        Ready = "ready",
        /// The guest is paused.
        Paused = "paused",
        /// The guest runs again.
        Resumed = "resumed",
        /// The guest waits in the pool.
        Pooled = "pooled",
        /// A guest that waited is somebody's.
        Taken = "taken",
        /// How a run ended.
        Exit = "exit",
        /// A stop has begun.
        Stop = "stop",
        /// What a run held is proven gone.
        Settled = "settled",
        /// The state after a run.
        After = "after",
        /// A deletion has begun.
        Delete = "delete",
        /// What is proven gone, and the rows of sandboxes that hold nothing any more.
        Deleted = "deleted",
        /// A shared part without a record is taken on, to be put back.
        Adopt = "adopt",
        /// A shared part is put back.
        Unshare = "unshare",
        /// Rows that are none are dropped.
        Repair = "repair",
    }
}

/// How an effect is known of before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announcement {
    /// By a commit before it.
    ByCommit,
    /// By the entry that stands until the effect is recorded: it removes what is on record.
    ByEntry,
    /// By its own traces: a name or place that says what it is, found and swept by whoever comes next.
    BySelf,
}

impl Effect {
    /// How it is known of before it happens.
    pub const fn announcement(self) -> Announcement {
        match self {
            Self::StateDir
            | Self::DataDisk
            | Self::RunDir
            | Self::EnvFile
            | Self::Forwarding
            | Self::Filter
            | Self::Tap
            | Self::Monitor
            | Self::MonitorFiles
            | Self::Hypervisor => Announcement::ByCommit,
            Self::EndHypervisors
            | Self::EndMonitors
            | Self::RemoveElements
            | Self::RemoveTaps
            | Self::RemoveRunDirs
            | Self::RemoveStateDirs
            | Self::DropTable
            | Self::CloseForwarding => Announcement::ByEntry,
            // Whoever does not end is asked again, and killed.
            Self::AskHypervisors
            // Its monitor knows how it is, and is asked again by whoever comes next.
            | Self::Pause
            | Self::Resume
            // It goes on as soon as who wanted it frozen is gone.
            | Self::Freeze
            | Self::Thaw
            // They lie in a directory that is on record as a whole, and whoever comes next reads what their names say.
            | Self::DiskLayer
            | Self::MergeLayers
            | Self::Home
            | Self::LockFile
            | Self::CacheFile
            | Self::EmptyTrash
            | Self::RemoveLockFile
            | Self::SetAside
            | Self::InstallPackages
            | Self::PackageLists
            | Self::Workdir
            | Self::Publish
            | Self::DropTemplate
            | Self::DropSnapshot
            | Self::PointName
            | Self::DropName
            // What has come of it lies under its digest, and the next pull goes on from there.
            | Self::Blob
            | Self::Archive
            | Self::RemoveCache
            // It holds the pool's lock, and what it makes is a sandbox like any other.
            | Self::Refill
            | Self::ConfigFile => Announcement::BySelf,
        }
    }
}

/// What every teardown may do, whichever of it there is to do.
const TEARDOWN: &[Effect] = &[
    Effect::EndHypervisors,
    Effect::EndMonitors,
    Effect::RemoveElements,
    Effect::RemoveTaps,
    Effect::RemoveRunDirs,
    Effect::RemoveStateDirs,
];

/// What a transaction has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// The end of every process. What it is about ends with the host's power: processes, devices, rules, a run's directory.
    Kill,
    /// A power cut, too: it is on the disk before anybody is told of it.
    PowerCut,
}

impl Commit {
    /// What it has to survive. Nothing of a run outlives a power cut, so a ledger that has forgotten a run after one is right: the sandbox does not
    /// run. (A run's directory that was on a disk says whose it is, and goes with the sandbox.) But that it was ever started tells what is on its
    /// disk: this is on record before its guest runs, for [`Commit::Raised`] comes after [`Commit::Start`] and before that, and takes all before it
    /// to the disk.
    pub const fn survives(self) -> Survives {
        match self {
            Self::Start | Self::Launched | Self::Ready | Self::Paused | Self::Resumed => Survives::Kill,
            Self::Schema
            | Self::Range
            | Self::Create
            | Self::Created
            | Self::Forget
            | Self::Share
            | Self::Raised
            | Self::Pooled
            | Self::Taken
            | Self::Exit
            | Self::Stop
            | Self::Settled
            | Self::After
            | Self::Delete
            | Self::Deleted
            | Self::Adopt
            | Self::Unshare
            | Self::Repair => Survives::PowerCut,
        }
    }

    /// Which effects it announces.
    pub const fn intends(self) -> &'static [Effect] {
        match self {
            Self::Create => &[Effect::StateDir, Effect::DataDisk],
            Self::Start => &[
                Effect::DataDisk,
                Effect::RunDir,
                Effect::EnvFile,
                Effect::Filter,
                Effect::Tap,
                Effect::Monitor,
                Effect::MonitorFiles,
                Effect::Hypervisor,
            ],
            Self::Share => &[Effect::Forwarding, Effect::Filter],
            // Whoever takes it has variables of their own.
            Self::Taken => &[Effect::EnvFile],
            Self::Stop | Self::Delete => TEARDOWN,
            Self::Adopt => &[Effect::DropTable, Effect::CloseForwarding],
            Self::Schema
            | Self::Range
            | Self::Created
            | Self::Forget
            | Self::Raised
            | Self::Launched
            | Self::Ready
            | Self::Paused
            | Self::Resumed
            | Self::Pooled
            | Self::Exit
            | Self::Settled
            | Self::After
            | Self::Deleted
            | Self::Unshare
            | Self::Repair => &[],
        }
    }

    /// Which effects it writes down as done.
    pub const fn records(self) -> &'static [Effect] {
        match self {
            Self::Created => &[Effect::StateDir, Effect::DataDisk],
            Self::Raised => &[Effect::DataDisk, Effect::RunDir, Effect::EnvFile, Effect::Forwarding, Effect::Filter, Effect::Tap],
            Self::Resumed => &[Effect::EnvFile],
            Self::Launched => &[Effect::Monitor, Effect::MonitorFiles, Effect::Hypervisor],
            Self::Settled | Self::Deleted => TEARDOWN,
            Self::Unshare => &[Effect::DropTable, Effect::CloseForwarding],
            Self::Schema
            | Self::Range
            | Self::Create
            | Self::Forget
            | Self::Start
            | Self::Share
            | Self::Ready
            | Self::Paused
            | Self::Pooled
            | Self::Taken
            | Self::Exit
            | Self::Stop
            | Self::After
            | Self::Delete
            | Self::Adopt
            | Self::Repair => &[],
        }
    }
}

/// What is done at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// The host is changed.
    Effect(Effect),
    /// The ledger is changed.
    Commit(Commit),
}

/// On which side of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Nothing of it has happened.
    Before,
    /// All of it has.
    After,
}

/// A place in the code at which a process can be made to end, to fail, or to be told that it passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Of what.
    pub act: Act,
    /// Before or after it.
    pub side: Side,
}

impl Point {
    /// Every point there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let effects = Effect::ALL.iter().copied().map(Act::Effect);
        let commits = Commit::ALL.iter().copied().map(Act::Commit);
        effects.chain(commits).flat_map(|act| [Side::Before, Side::After].map(|side| Self { act, side }))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Before => "before",
            Side::After => "after",
        };
        match self.act {
            Act::Effect(effect) => write!(f, "{side}:{}", effect.as_str()),
            Act::Commit(commit) => write!(f, "{side}:ledger/{}", commit.as_str()),
        }
    }
}

/// The word names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a point")]
pub struct PointError;

impl std::str::FromStr for Point {
    type Err = PointError;

    fn from_str(text: &str) -> Result<Self, PointError> {
        Self::all().find(|point| point.to_string() == text).ok_or(PointError)
    }
}

/// A rule of announcing and recording that a run broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Where in the run.
    pub at: usize,
    /// Which effect.
    pub effect: Effect,
    /// What is missing.
    pub missing: Missing,
}

/// What is missing around an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No commit before it announces it.
    Intent,
    /// No commit after it writes it down.
    Record,
}

/// Holds a run that came to its end, as the points it passed, against the rule: intent before effect, fact after it.
///
/// The points are those of all processes of one verb, in the order in which they were passed.
pub fn breaches(run: &[Point]) -> Vec<Breach> {
    let commit_between = |from: usize, to: usize, names: fn(Commit) -> &'static [Effect], effect: Effect| {
        run[from..to].iter().any(|p| matches!((p.act, p.side), (Act::Commit(commit), Side::After) if names(commit).contains(&effect)))
    };
    let mut found = Vec::new();
    for (at, point) in run.iter().enumerate() {
        let Act::Effect(effect) = point.act else { continue };
        let (by_commit, by_entry) = (effect.announcement() == Announcement::ByCommit, effect.announcement() == Announcement::ByEntry);
        match point.side {
            Side::Before if by_commit && !commit_between(0, at, Commit::intends, effect) => {
                found.push(Breach { at, effect, missing: Missing::Intent });
            }
            // An effect that failed has no point after it: there is nothing to write down.
            Side::After if (by_commit || by_entry) && !commit_between(at, run.len(), Commit::records, effect) => {
                found.push(Breach { at, effect, missing: Missing::Record });
            }
            Side::Before | Side::After => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<String> = Point::all().map(|p| p.to_string()).collect();
        assert_eq!(names.len(), 2 * (Effect::ALL.len() + Commit::ALL.len()));
        for point in Point::all() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert_eq!("before:lunch".parse::<Point>(), Err(PointError));
    }

    /// What needs an announcement has one, and what is announced or entered is written down somewhere.
    #[test]
    fn every_effect_can_be_announced_and_recorded() {
        for effect in Effect::ALL {
            let intended = Commit::ALL.iter().any(|c| c.intends().contains(effect));
            let recorded = Commit::ALL.iter().any(|c| c.records().contains(effect));
            match effect.announcement() {
                Announcement::ByCommit => assert!(intended && recorded, "{effect:?}"),
                Announcement::ByEntry => assert!(recorded, "{effect:?}"),
                Announcement::BySelf => assert!(!intended && !recorded, "{effect:?}"),
            }
        }
    }

    #[test]
    fn a_run_without_intent_or_record_is_caught() {
        let points = |words: &[&str]| words.iter().map(|w| w.parse().unwrap()).collect::<Vec<Point>>();
        let whole = ["before:ledger/create", "after:ledger/create", "before:state-dir", "after:state-dir", "after:ledger/created"];
        assert_eq!(breaches(&points(&whole)), []);
        let at = |at, missing| Breach { at, effect: Effect::StateDir, missing };
        assert_eq!(breaches(&points(&whole[2..])), [at(0, Missing::Intent)]);
        assert_eq!(breaches(&points(&whole[..4])), [at(3, Missing::Record)]);
        assert_eq!(breaches(&points(&whole[..3])), [], "an effect that failed is not written down");
        // A commit that was only begun has announced nothing.
        assert_eq!(breaches(&points(&["before:ledger/create", "before:state-dir", "after:ledger/created"])), [at(1, Missing::Intent)]);
        // A removal needs no announcement of its own: the entry stands until it is recorded.
        assert_eq!(breaches(&points(&["after:remove-taps", "after:ledger/settled"])), []);
        assert_eq!(breaches(&points(&["after:remove-taps"])).len(), 1);
    }
}
