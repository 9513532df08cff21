//! `snapshot create`: the sandbox stands still for a moment and goes on.

use std::time::Duration;

use smolvm_host::disk::{Chain, share};
use smolvm_host::effect::perform;
use smolvm_host::engine::guest_memory::Fate;
use smolvm_host::image::snapshot::{self, Draft, Kind, Origin};
use smolvm_host::store::SandboxRecord;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind as HeldKind};
use smolvm_model::name::SandboxId;
use smolvm_model::state::{Admission, Request, State};

use super::verdict::processor;
use super::{SnapshotView, unusable};
use crate::copy::{CopyWanted, Order, Sync};
use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};

/// What `snapshot create` is asked for.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    /// What it is of.
    pub sandbox: SandboxId,
    /// Its name; the sandbox's with a number without one.
    pub name: Option<SandboxId>,
    /// What is to be in it; all that there is without one.
    pub kind: Option<Kind>,
}

/// What `snapshot create` did.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// The snapshot.
    pub snapshot: SnapshotView,
    /// How long the sandbox stood still; nothing for one that did not run.
    pub halted: Option<Duration>,
}

impl Smolvm {
    /// Saves a sandbox as it is now.
    pub fn save_snapshot(&self, request: &SnapshotRequest) -> Result<Saved, Error> {
        let id = &request.sandbox;
        let missing = || Error::no_such_sandbox(id);
        let store = self.store_if_any()?.ok_or_else(missing)?;
        // Its sandbox may be deleted before the snapshot that needs its image is on record.
        let _using = self.using_images()?;
        let lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        let runs = self.runs_now(&record, &entries)?;
        let kind = match (request.kind, runs) {
            (None | Some(Kind::Machine), true) => Kind::Machine,
            (None | Some(Kind::Disk), false) | (Some(Kind::Disk), true) => Kind::Disk,
            (Some(Kind::Machine), false) => {
                return Err(Error::new(ErrorCode::InvalidState, format!("sandbox \"{id}\" does not run: it has a disk, and no memory"))
                    .hint(format!("smolvm snapshot create {id} --disk-only")));
            }
        };
        let root = self.paths().snapshots();
        let name = match &request.name {
            Some(name) => name.clone(),
            None => next_name(id, &snapshot::names(&root)?)?,
        };
        let origin = Origin {
            sandbox: id.clone(),
            parent: record.spec.restored_from.clone(),
            spec: record.spec.clone(),
            facts: self.facts_of(&record)?,
            processor: processor(record.run.as_ref()),
        };
        if record.state == State::Paused && kind == Kind::Disk {
            return Err(Error::new(ErrorCode::InvalidState, format!("\"{id}\" is paused and cannot write out its files"))
                .hint(format!("smolvm resume {id}; or save all of it: smolvm snapshot create {id}")));
        }
        let draft = Draft::of_snapshot(&root, &name, LOCK_WAIT).map_err(unusable)?;
        if snapshot::find(&root, &name).map_err(unusable)?.is_some() {
            return Err(unusable(smolvm_host::image::ImageError::Exists { name: name.to_string() }));
        }
        let (halted, counted) = if runs {
            // A paused guest cannot write anything out; one that runs does, so that its disk is of use alone, too.
            let sync = if record.state == State::Paused { Sync::No } else { Sync::First };
            let wanted = CopyWanted { kind, sync, order: Order::Whole(Fate::Lasting), signals: None };
            let copied = self.copy_running(&record, &entries, &draft.files(), wanted)?;
            (Some(copied.halted), copied.counted)
        } else {
            // It puts a layer of its own over what it shares now when it starts again.
            let chain = Chain::read(&self.paths().disk(id))?;
            perform(Effect::Workdir, |_| share(&chain, &draft.files().disk, |bytes| self.room_for(bytes)))?;
            (None, None)
        };
        // The sandbox is free again; what is left to do is the disk's.
        drop((lock, store));
        let snapshot = draft.publish(&root, &name, kind, &origin, counted.as_ref()).map_err(unusable)?;
        Ok(Saved { snapshot: SnapshotView::of(snapshot), halted })
    }

    /// Whether there is memory to save; what is neither running nor at rest is refused.
    fn runs_now(&self, record: &SandboxRecord, entries: &[Entry]) -> Result<bool, Error> {
        match record.state {
            // What could not be stopped may still write to its disk.
            State::Failed if entries.iter().any(|entry| entry.kind == HeldKind::Process) => {
                let id = &record.id;
                Err(Error::new(ErrorCode::InvalidState, format!("\"{id}\" failed, and its processes are still on record"))
                    .hint(format!("smolvm stop {id}")))
            }
            State::Created | State::Stopped | State::Failed => Ok(false),
            State::Creating | State::Starting | State::Running | State::Paused | State::Pooled | State::Stopping | State::Deleting => {
                match self.admit(record, entries, Request::Pause)? {
                    Admission::Refused(refusal) => Err(Error::refused_by_state(&record.id, refusal)),
                    Admission::Go | Admission::AlreadySo | Admission::ReclaimThenGo => Ok(true),
                }
            }
        }
    }
}

/// The sandbox's name with the number after the highest there is.
fn next_name(sandbox: &SandboxId, taken: &[SandboxId]) -> Result<SandboxId, Error> {
    // Room for a number of six digits, and no '-' before the '-'.
    let stem = sandbox.as_str().chars().take(56).collect::<String>();
    let stem = stem.trim_end_matches('-');
    let number_of = |name: &SandboxId| name.as_str().strip_prefix(stem)?.strip_prefix('-')?.parse::<u32>().ok();
    let next = taken.iter().filter_map(number_of).max().unwrap_or(0).saturating_add(1);
    format!("{stem}-{next}")
        .parse()
        .map_err(|e| Error::new(ErrorCode::UsageError, "no name is left for it").hint("give it one: --name NAME").because(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbered_and_always_names() {
        let id = |text: &str| text.parse::<SandboxId>().unwrap();
        assert_eq!(next_name(&id("build"), &[]).unwrap(), id("build-1"));
        assert_eq!(next_name(&id("build"), &[id("build-9"), id("build-x"), id("other-77")]).unwrap(), id("build-10"));
        let long = format!("{}-{}", "a".repeat(55), "b".repeat(7));
        assert_eq!(next_name(&id(&long), &[]).unwrap(), id(&format!("{}-1", "a".repeat(55))));
    }
}
