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

mod breach;
mod commit;
mod point;

pub use breach::{Breach, Missing, breaches};
pub use commit::{Commit, Survives};
pub use point::{Act, Point, PointError, Side};

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
