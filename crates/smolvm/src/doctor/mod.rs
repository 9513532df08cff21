//! `doctor`: what this host can do, what stands in the way, and the command that mends it.
//!
//! ```text
//!   each check    look (reads the host, bounded) ──► facts ──► judge (pure) ──► CheckReport
//!   doctor        every check in a fixed order, each with a deadline of its own
//!   doctor --fix  drops rows of the ledger that are no valid sandbox, or sets a damaged one aside; deletes no file
//! ```
//!
//! Invariants: a look changes nothing, needs no rights and makes nothing in an empty home; whatever
//! hangs costs its own check only; a check that does not pass says how to mend it, if that can be done.

mod accelerator;
mod boot_files;
mod bounded;
mod clock;
mod disk;
mod firewall;
mod fix;
mod forwarding;
mod hypervisor;
mod installations;
mod jail;
mod memory;
mod nft;
mod orphans;
mod packages;
mod report;
mod rights;
mod sandboxes;
mod state;
mod trash;

use crate::installation::Smolvm;

pub use report::{CheckReport, CheckStatus, Tally};

/// One look at the host.
struct Check {
    /// Names the check when it does not come back.
    id: &'static str,
    look: fn(&Smolvm) -> Vec<CheckReport>,
}

/// What guests are made of: what `setup` prepares.
const PREPARED: [Check; 4] = [
    Check { id: "packages", look: packages::look },
    Check { id: "hypervisor", look: hypervisor::look },
    Check { id: "kernel", look: boot_files::look },
    Check { id: "disk", look: disk::look },
];

/// What the host gives and what sandboxes left on it.
const HOST: [Check; 14] = [
    Check { id: "accelerator", look: accelerator::look },
    Check { id: "memory", look: memory::look },
    Check { id: "network.rights", look: rights::look },
    Check { id: "nft", look: nft::look },
    Check { id: "forwarding", look: forwarding::look },
    Check { id: "firewall", look: firewall::look },
    Check { id: "jail", look: jail::look },
    Check { id: "state.directory", look: state::look_directory },
    Check { id: "state.database", look: state::look_database },
    Check { id: "sandboxes", look: sandboxes::look },
    Check { id: "orphans", look: orphans::look },
    Check { id: "installations", look: installations::look },
    Check { id: "trash", look: trash::look },
    Check { id: "clock", look: clock::look },
];

impl Smolvm {
    /// Every check, in a fixed order. Changes nothing.
    pub fn doctor(&self) -> Vec<CheckReport> {
        PREPARED.iter().chain(&HOST).flat_map(|check| bounded::run(self, check.id, check.look)).collect()
    }
}

/// The checks of what `setup` prepares.
pub(crate) fn setup_checks(vm: &Smolvm) -> Vec<CheckReport> {
    PREPARED.iter().flat_map(|check| bounded::run(vm, check.id, check.look)).collect()
}

#[cfg(test)]
mod tests;
