//! `delete`: one or several sandboxes, whatever state they are in, and the removal all verbs share.

use std::time::Duration;

use smolvm_host::lock::Lock;
use smolvm_host::store::{Found, SandboxRecord, Store};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::Entry;
use smolvm_model::name::SandboxId;
use smolvm_model::state::State;
use smolvm_model::teardown::{Outcome, Plan, Reason};

use crate::cleanup::add_unrecorded;
use crate::create::Made;
use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::network;
use crate::teardown::{HostEffects, Report, StepReport, execute, settle, settle_now};

/// What `delete` did.
#[derive(Debug, Default)]
pub struct Deletion {
    /// Those that are gone.
    pub deleted: Vec<SandboxId>,
    /// Those that are not, and why.
    pub failed: Vec<(SandboxId, Error)>,
    /// Bytes of disk freed.
    pub freed_bytes: u64,
    /// Why what all sandboxes share could not be put back, if it could not.
    pub shared: Option<Error>,
}

/// Whether deleting what does not exist is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// It is.
    Fail,
    /// It is what was wanted.
    Ignore,
}

impl Smolvm {
    /// Deletes sandboxes together; each that fails leaves the others alone.
    pub fn delete(&self, ids: &[SandboxId], if_missing: IfMissing) -> Result<Deletion, Error> {
        self.delete_meant(ids, if_missing, LOCK_WAIT, |_| true)
    }

    /// Deletes a sandbox that this process made, and not another that has its name by now.
    pub fn delete_made(&self, made: &Made) -> Result<Deletion, Error> {
        self.delete_made_within(made, LOCK_WAIT)
    }

    /// The same, waiting longer for a command or a monitor that is at work on it.
    pub(crate) fn delete_made_within(&self, made: &Made, wait: Duration) -> Result<Deletion, Error> {
        self.delete_meant(std::slice::from_ref(&made.id), IfMissing::Ignore, wait, |record| record.seq == made.seq)
    }

    /// The same for one that waits in the pool, and not for one that was taken meanwhile.
    pub(crate) fn delete_pooled(&self, id: &SandboxId, wait: Duration) -> Result<Deletion, Error> {
        self.delete_meant(std::slice::from_ref(id), IfMissing::Ignore, wait, |record| record.state == State::Pooled)
    }

    fn delete_meant(
        &self,
        ids: &[SandboxId],
        if_missing: IfMissing,
        wait: Duration,
        is_meant: impl Fn(&SandboxRecord) -> bool,
    ) -> Result<Deletion, Error> {
        let mut deletion = Deletion::default();
        let Some(mut store) = self.store_if_any()? else {
            if if_missing == IfMissing::Fail {
                deletion.failed = ids.iter().map(|id| (id.clone(), Error::no_such_sandbox(id))).collect();
            }
            return Ok(deletion);
        };
        let mut locks: Vec<(SandboxId, Lock)> = Vec::new();
        let mut unique: Vec<&SandboxId> = ids.iter().collect();
        // One order for everybody: two commands that want the same sandboxes cannot wait for each other.
        unique.sort();
        unique.dedup();
        for id in unique {
            match self.lock_meant(&store, id, wait, &is_meant) {
                Ok(Some(lock)) => locks.push((id.clone(), lock)),
                Ok(None) if if_missing == IfMissing::Ignore => {}
                Ok(None) => deletion.failed.push((id.clone(), Error::no_such_sandbox(id))),
                Err(e) => deletion.failed.push((id.clone(), e)),
            }
        }
        self.delete_held(&mut store, locks, &mut deletion)?;
        Ok(deletion)
    }

    /// The same for those whose locks are held.
    pub(crate) fn delete_held(&self, store: &mut Store, locks: Vec<(SandboxId, Lock)>, deletion: &mut Deletion) -> Result<(), Error> {
        let targets: Vec<SandboxId> = locks.iter().map(|(id, _)| id.clone()).collect();
        let report = self.remove_locked(store, &targets, Reason::Delete)?;
        deletion.freed_bytes = report.freed_bytes;
        let failures = report.failures();
        for (id, lock) in locks {
            if let Some(step) = failures.get(&id) {
                deletion.failed.push((id.clone(), step_error(&id, step)));
            } else {
                // A lock file that stays is swept by the next cleanup; the sandbox is gone.
                let _ = lock.remove();
                deletion.deleted.push(id);
            }
        }
        deletion.shared = network::release_shared(self, store).and_then(|parts| network::unreleased(&parts)).err();
        Ok(())
    }

    /// The sandbox's lock if there is such a sandbox once the lock is held.
    pub(crate) fn lock_existing(&self, store: &Store, id: &SandboxId, wait: Duration) -> Result<Option<Lock>, Error> {
        self.lock_meant(store, id, wait, &|_| true)
    }

    fn lock_meant(
        &self,
        store: &Store,
        id: &SandboxId,
        wait: Duration,
        is_meant: &dyn Fn(&SandboxRecord) -> bool,
    ) -> Result<Option<Lock>, Error> {
        if store.sandbox(id)?.is_none() {
            return Ok(None);
        }
        let lock = self.lock_for(id, wait)?;
        match store.sandbox(id)? {
            Some((record, _)) if is_meant(&record) => Ok(Some(lock)),
            // Another of the same name: its lock file is its own.
            Some(_) => Ok(None),
            None => {
                // Somebody else deleted it while this waited.
                lock.remove()?;
                Ok(None)
            }
        }
    }

    /// The one removal: all sandboxes together. The caller holds their locks.
    ///
    /// With [`Reason::Delete`] their rows go last, in the same transaction as their entries; with
    /// [`Reason::Stop`] the rows stay and the caller sets their state.
    pub(crate) fn remove_locked(&self, store: &mut Store, ids: &[SandboxId], reason: Reason) -> Result<Report, Error> {
        let found: Vec<Option<Found>> = store.sandboxes(ids)?.into_iter().collect::<Result<_, _>>()?;
        self.remove_found(store, found.into_iter().flatten().collect(), reason)
    }

    /// The same for rows that were read under their locks already.
    pub(crate) fn remove_found(&self, store: &mut Store, found: Vec<Found>, reason: Reason) -> Result<Report, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut rows = Vec::new();
        for (record, held) in found {
            rows.push((record.id, record.state));
            entries.extend(held);
        }
        if rows.is_empty() {
            return Ok(Report::default());
        }
        if reason == Reason::Delete {
            // Under their locks only their monitors still write to these rows; what a monitor wrote since the look is overruled.
            store.write(Commit::Delete, |w| {
                rows.iter().filter(|(_, state)| *state != State::Deleting).try_for_each(|(id, _)| w.force_state(id, State::Deleting))
            })?;
        }
        let mut effects = HostEffects::new(self, reason.into());
        if reason == Reason::Delete {
            effects.ask_to_end(&entries);
            add_unrecorded(self, &mut entries, &rows.iter().map(|(id, _)| id).collect());
        }
        let plan = Plan::teardown(&entries, reason);
        let report = execute(&plan, &effects);
        match reason {
            Reason::Stop => settle_now(store, &report)?,
            Reason::Delete => store.write(Commit::Deleted, |w| -> Result<(), Error> {
                settle(w, &report)?;
                let unclear = report.unclear();
                for (id, _) in rows.iter().filter(|(id, _)| !unclear.contains(id)) {
                    w.delete_sandbox(id)?;
                }
                Ok(())
            })?,
        }
        Ok(report)
    }
}

/// A failed step as an error of its sandbox.
pub(crate) fn step_error(id: &SandboxId, step: &StepReport) -> Error {
    let entry = &step.step.entry;
    let (code, message) = match &step.outcome {
        Outcome::Failed { code, message } => (*code, message.clone()),
        Outcome::Released | Outcome::AlreadyGone | Outcome::Refused { .. } | Outcome::Skipped { .. } => {
            (ErrorCode::Internal, step.outcome.as_str().to_owned())
        }
    };
    let hint = match code {
        ErrorCode::PermissionDenied => format!("run it with the rights that started it: sudo smolvm delete {id}"),
        ErrorCode::MissingDependency => "smolvm doctor tells what is missing".to_owned(),
        _ => format!("when the cause is gone: smolvm delete {id}"),
    };
    Error::new(code, format!("the {} {} of \"{id}\" could not be released: {message}", entry.kind, entry.key)).hint(hint)
}

#[cfg(test)]
mod tests {
    use smolvm_host::store::NewSandbox;
    use smolvm_model::spec::NetworkMode;

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing::spec;

    /// `run` takes away what it made; meanwhile somebody deleted that and made another of the name.
    #[test]
    fn a_later_sandbox_of_the_same_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let mut store = vm.store().unwrap();
        let spec = spec(NetworkMode::None);
        let id: SandboxId = "vm-a".parse().unwrap();
        let mut make = || {
            let new = NewSandbox { id: &id, spec: &spec, created_ms: 0, expires_ms: None };
            Made { id: id.clone(), seq: store.write(Commit::Create, |w| w.insert_sandbox(&new)).unwrap() }
        };
        let first = make();
        assert_eq!(vm.delete_made(&first).unwrap().deleted, std::slice::from_ref(&id));
        let second = make();
        assert_ne!(first, second);
        let deletion = vm.delete_made(&first).unwrap();
        assert!(deletion.deleted.is_empty() && deletion.failed.is_empty(), "{deletion:?}");
        assert_eq!(vm.list().unwrap().sandboxes.len(), 1, "another's sandbox was deleted");
        assert_eq!(vm.delete_made(&second).unwrap().deleted, [id]);
    }
}
