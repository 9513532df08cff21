//! The transactions of the ledger: which effects each announces and writes down, and what it has to survive.

use super::Effect;

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

#[cfg(test)]
mod tests {
    use super::super::Announcement;
    use super::*;

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
}
