//! The disk's part of a copy: what the copy reads, and what the source writes from then on.
//!
//! ```text
//!   clone   the highest file, while the guest stands still          where the file system shares blocks
//!   layer   laid beside it ahead ─► put on while it stands still ─► the files below get another name afterwards
//!   copy    while it stands still                                   for a monitor that knows of no layers
//! ```
//!
//! Each copy puts a layer of its own over what it shares when it starts ([`Smolvm::own_disk`]). A disk of too many layers
//! becomes one of two before another comes ([`MOST_LAYERS`]).

use std::path::Path;

use smolvm_host::disk::{Chain, add_layer, can_clone, merge_layers, remove_layers};
use smolvm_host::effect::{perform, perform_once};
use smolvm_host::image::snapshot::Files;
use smolvm_host::store::SandboxRecord;
use smolvm_model::effect::Effect;
use smolvm_model::name::SandboxId;
use smolvm_proto::{MonitorReply, MonitorRequest};

use super::take::{ask, odd_answer};
use crate::capacity;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::session::Session;

/// Files that a disk has at most; a read of what none of the upper ones has asks each of them.
pub(crate) const MOST_LAYERS: usize = 8;

/// How a copy gets the disk of a machine that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Its highest file is cloned.
    Clone(Chain),
    /// These are shared, and the source gets a layer of that number.
    Layer(Chain, u32),
    /// Everything that is not shared already is copied.
    Copy(Chain),
}

impl Way {
    /// What the copy gets.
    pub(super) fn chain(&self) -> &Chain {
        match self {
            Self::Clone(chain) | Self::Layer(chain, _) | Self::Copy(chain) => chain,
        }
    }
}

impl Smolvm {
    /// Chooses, and makes few layers of many first.
    pub(super) fn way_of_disk(&self, record: &SandboxRecord, live: &[u32], session: &mut Session, files: &Files) -> Result<Way, Error> {
        let lowest = self.paths().disk(&record.id);
        let there = Chain::read(&lowest)?;
        let Some(chain) = Chain::of(&lowest, live) else { return Ok(Way::Copy(there)) };
        remove_strays(&there, &chain)?;
        let clones = perform(Effect::Workdir, |_| -> Result<bool, Error> { Ok(files.disk.parent().is_some_and(can_clone)) })?;
        if clones {
            return Ok(Way::Clone(chain));
        }
        let chain = if chain.depth() < MOST_LAYERS { chain } else { self.merge_live(record, chain, session)? };
        let Some(next) = chain.top().checked_add(1) else { return Ok(Way::Copy(chain)) };
        Ok(Way::Layer(chain, next))
    }

    /// Lays the layer there that the guest will write into; gives its number.
    pub(super) fn lay(&self, record: &SandboxRecord, way: &Way) -> Result<Option<u32>, Error> {
        let Way::Layer(_, number) = way else { return Ok(None) };
        let (lowest, size) = (self.paths().disk(&record.id), record.spec.disk.bytes());
        perform(Effect::DiskLayer, |_| add_layer(&lowest, *number, size))?;
        Ok(Some(*number))
    }

    /// Makes one layer of those between the lowest and the one that is written to, and has the hypervisor read that.
    ///
    /// Without room for it, or with a layer that cannot be read, there is no copy: whoever starts it would have to merge
    /// the same, with less room than there is now. The guest has not stood still for it, and its disk reads as before.
    fn merge_live(&self, record: &SandboxRecord, chain: Chain, session: &mut Session) -> Result<Chain, Error> {
        let numbers = chain.numbers();
        let [_, between @ .., _] = &numbers[..] else { return Ok(chain) };
        self.room_for(chain.blocks_above())?;
        perform_once(Effect::MergeLayers, |_| -> Result<Chain, Error> {
            merge_layers(&chain, between, record.spec.disk.bytes())?;
            let request = MonitorRequest::Merged { layers: between.to_vec() };
            match ask(session, &request, &record.id)? {
                MonitorReply::Merged => drop_layers(&chain, between),
                _ => Err(odd_answer()),
            }
        })
    }

    /// Before a start: sees to it that what is written to is this sandbox's alone, and that its layers are not too many.
    pub(crate) fn own_disk(&self, id: &SandboxId, size: u64) -> Result<(), Error> {
        let lowest = self.paths().disk(id);
        let chain = Chain::read(&lowest)?;
        let (shared, depth) = (chain.is_shared()?, chain.depth());
        if depth > MOST_LAYERS || (shared && depth == MOST_LAYERS) {
            self.room_for(chain.blocks_above())?;
            return perform(Effect::DataDisk, |_| {
                // What a killed start merged already is one layer.
                let chain = Chain::read(&lowest)?;
                let above = chain.numbers().split_off(1);
                merge_layers(&chain, &above, size)?;
                drop_layers(&chain, &above).map(drop)
            });
        }
        if shared {
            let next = chain.top().saturating_add(1);
            perform(Effect::DataDisk, |_| add_layer(&lowest, next, size))?;
        }
        Ok(())
    }

    /// Whether there is room for so much that is copied, and for others to go on.
    pub(crate) fn room_for(&self, bytes: u64) -> Result<(), Error> {
        capacity::check_copy(self.paths(), bytes)
    }
}

/// Lays a layer over a disk that others read, too, before anybody starts it: whoever makes it waits for the disk anyway. One with as many as it may
/// have waits for its start ([`Smolvm::own_disk`]).
pub(crate) fn lay_over_shared(lowest: &Path, size: u64) -> Result<(), Error> {
    let chain = Chain::read(lowest)?;
    if chain.is_shared()? && chain.depth() < MOST_LAYERS {
        add_layer(lowest, chain.top().saturating_add(1), size)?;
    }
    Ok(())
}

/// Takes away what the hypervisor does not have open: empty layers of copies that were given up, and those that were
/// merged into another by a command that was killed then. All reads the same without them.
fn remove_strays(there: &Chain, live: &Chain) -> Result<(), Error> {
    let strays = there.without(&live.numbers()).numbers().split_off(1);
    if strays.is_empty() {
        return Ok(());
    }
    Ok(perform(Effect::DiskLayer, |_| remove_layers(there, &strays))?)
}

/// Takes the names away of all but the last of these, which has all that they have.
fn drop_layers(chain: &Chain, merged: &[u32]) -> Result<Chain, Error> {
    let gone = merged.split_last().map_or(&[][..], |(_, rest)| rest);
    remove_layers(chain, gone)?;
    Ok(chain.without(gone))
}
