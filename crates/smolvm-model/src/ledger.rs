//! What a sandbox holds on the host, entry by entry.
//!
//! ```text
//!   Reserved ──► Intended ──► Held         a name is taken · an effect may have begun · it is there
//!       ▲            │          │
//!       └────────────┴──────────┘          after a teardown step that proved it gone
//! ```
//!
//! An entry is written before its effect under its final name, so that a crash between effect and
//! record leaves nothing that cannot be found again. `(kind, key)` is unique over all sandboxes:
//! the ledger is the allocator.

use std::fmt;
use std::str::FromStr;

use crate::name::SandboxId;

/// A kind of host resource. The order of the variants is not the order of teardown: [`crate::teardown`] has that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The hypervisor; key: launch token.
    Process,
    /// The monitor; key: launch token.
    Monitor,
    /// nftables elements; key: TAP name.
    NftElements,
    /// TAP device; key: its name.
    Tap,
    /// Directory of sockets and the monitor's lock; key: sandbox id.
    RunDir,
    /// Directory of disk and logs; key: sandbox id.
    StateDir,
    /// IPv4 address of the guest; key: the address.
    Address,
    /// Ethernet address of the guest; key: the address.
    Mac,
    /// The hypervisor's uid; key: the number.
    Uid,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] =
        [Self::Process, Self::Monitor, Self::NftElements, Self::Tap, Self::RunDir, Self::StateDir, Self::Address, Self::Mac, Self::Uid];

    /// The word in the database and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Monitor => "monitor",
            Self::NftElements => "nft_elements",
            Self::Tap => "tap",
            Self::RunDir => "run_dir",
            Self::StateDir => "state_dir",
            Self::Address => "address",
            Self::Mac => "mac",
            Self::Uid => "uid",
        }
    }

    /// Whether the resource belongs to one run (made by `start`, released by `stop`) or to the sandbox's whole life.
    pub fn lifetime(self) -> Lifetime {
        match self {
            Self::Process | Self::Monitor | Self::RunDir => Lifetime::Run,
            Self::NftElements | Self::Tap => Lifetime::RunUnderReservedName,
            Self::StateDir | Self::Address | Self::Mac | Self::Uid => Lifetime::Sandbox,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word is not in the ledger's vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a word of the ledger")]
pub struct LedgerWordError;

impl FromStr for Kind {
    type Err = LedgerWordError;

    fn from_str(text: &str) -> Result<Self, LedgerWordError> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or(LedgerWordError)
    }
}

/// How long a kind of resource lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Made by `start`; its entry goes with `stop`.
    Run,
    /// Made by `start` under a name that stays reserved until the sandbox is deleted.
    RunUnderReservedName,
    /// Made by `create`; goes with `delete`.
    Sandbox,
}

/// How far an entry's effect has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Only the name is taken; nothing of it is on the host.
    Reserved,
    /// The effect may have happened or not.
    Intended,
    /// The effect has happened.
    Held,
}

impl Status {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Intended => "intended",
            Self::Held => "held",
        }
    }
}

impl FromStr for Status {
    type Err = LedgerWordError;

    fn from_str(text: &str) -> Result<Self, LedgerWordError> {
        [Self::Reserved, Self::Intended, Self::Held].into_iter().find(|s| s.as_str() == text).ok_or(LedgerWordError)
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose it is.
    pub sandbox: SandboxId,
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub key: String,
    /// How far it has come.
    pub status: Status,
    /// For processes, who it is; absent until the process was started.
    pub identity: Option<ProcessIdentity>,
}

impl Entry {
    /// Whether it is a process that was to be started, and nobody wrote down whether it was, and who it is.
    pub fn is_unrecorded(&self) -> bool {
        matches!(self.kind, Kind::Process | Kind::Monitor) && self.identity.is_none() && self.status != Status::Reserved
    }
}

/// Everything that must agree before a process is taken for a recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Pid as the recorder saw it.
    pub pid: u32,
    /// Kernel start time in clock ticks since boot.
    pub start_ticks: u64,
    /// The boot of the host it was started in.
    pub boot_id: String,
    /// Launch token, one element of its argv.
    pub token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>(), Ok(kind));
        }
        for status in [Status::Reserved, Status::Intended, Status::Held] {
            assert_eq!(status.as_str().parse::<Status>(), Ok(status));
        }
    }
}
