//! What a guest needs that goes on from a memory, made while its hypervisor starts.
//!
//! ```text
//!   command   TAP ─► monitor ─┬─► rules ─► recorded ─► memory whole ─► a byte ──┐
//!   monitor                   └─► hypervisor, which has answered ───────────────┴─► devices loaded, the guest runs
//! ```
//!
//! Invariant: nothing of the guest runs before the byte. A command that ends without it has given up, and so does the monitor.

use std::io::Write;
use std::os::unix::net::UnixStream;

use smolvm_host::store::Store;
use smolvm_model::effect::Commit;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::spec::NetworkMode;

use super::plan::StartPlan;
use super::wait::{Patience, wait_for_memory};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::network;

impl Smolvm {
    /// Does what can be done while the hypervisor of a guest starts that waits for a word, and says that; gives what is left of the patience.
    pub(super) fn let_go<'a>(
        &self,
        store: &mut Store,
        entries: &[Entry],
        plan: &StartPlan,
        look: Option<network::Look>,
        (id, mut monitor): (&SandboxId, &UnixStream),
        patience: Patience<'a>,
    ) -> Result<Patience<'a>, Error> {
        look.map_or(Ok(()), |look| network::admit(self, store, id, entries, look))?;
        raised(store, id, plan)?;
        let patience = match &plan.whole {
            None => patience,
            Some(whole) => wait_for_memory(monitor, whole, patience).map(|()| patience.anew())?,
        };
        // One that has ended has said why.
        let _ = monitor.write_all(&[1]);
        Ok(patience)
    }
}

/// Writes down that directory, device and rules are there.
pub(super) fn raised(store: &mut Store, id: &SandboxId, plan: &StartPlan) -> Result<(), Error> {
    store.write(Commit::Raised, |w| {
        w.set_status(Kind::RunDir, id.as_str(), Status::Held)?;
        if plan.network == NetworkMode::Tap {
            w.set_status_of_kind(id, Kind::Tap, Status::Held)?;
            w.set_status_of_kind(id, Kind::NftElements, Status::Held)?;
        }
        Ok(())
    })
}
