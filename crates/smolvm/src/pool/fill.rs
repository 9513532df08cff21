//! Makes what the pool lacks, and removes what nobody will ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use smolvm_host::effect::perform;
use smolvm_host::image;
use smolvm_host::lock::{self, Lock};
use smolvm_host::store::Run;
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::spec::Spec;
use smolvm_model::state::{Event, Verdict};
use smolvm_proto::MonitorRequest;

use super::PoolWanted;
use super::take::after;
use crate::copy::REMOVAL_WAIT;
use crate::create::Made;
use crate::error::Error;
use crate::exec::{ExecIo, ExecSpec};
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::observe::Looker;
use crate::start::StartOptions;

/// Who is killed while it fills leaves a sandbox that `cleanup` takes after this time, whatever it is told to take.
const LIFETIME: Duration = Duration::from_mins(10);
/// Another that fills makes a few sandboxes, each in less than a second, or the first after a template.
const FILL_WAIT: Duration = Duration::from_mins(1);

/// What warms up an image takes a second or two.
const REHEARSAL: Duration = Duration::from_secs(20);
/// One sandbox is made in less than a second where there is a template.
const HOLD_WAIT: Duration = Duration::from_secs(5);

/// While it is there, nobody fills the pool.
#[derive(Debug)]
pub struct PoolHeld {
    _lock: Option<Lock>,
}

/// What was done about the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filled {
    /// What was made.
    pub made: Vec<SandboxId>,
    /// What was removed: of a kind nobody asks for any more, or more than are wanted.
    pub removed: Vec<SandboxId>,
}

impl Smolvm {
    /// Brings the pool to what is wanted; waits for another that is at it.
    pub fn fill_pool(&self, pool: &[PoolWanted]) -> Result<Filled, Error> {
        let wanted = pool.iter().map(|wanted| Ok((self.pool_spec(wanted)?, wanted.size.get()))).collect::<Result<Vec<_>, Error>>()?;
        let mut filled = Filled::default();
        // Who took one meanwhile left the filling to whoever held the lock, which is here.
        loop {
            let alone = self.pool_lock(FILL_WAIT)?;
            let more = self.fill(&wanted)?;
            drop(alone);
            filled.made.extend(more.made);
            filled.removed.extend(more.removed);
            if !self.lacks(&wanted)? {
                return Ok(filled);
            }
        }
    }

    /// Whether fewer wait than are wanted.
    pub(super) fn lacks(&self, wanted: &[(Spec, usize)]) -> Result<bool, Error> {
        let waiting = self.waiting()?;
        for (spec, size) in wanted {
            let key = self.pool_key(spec)?;
            if waiting.iter().filter(|(_, kind)| *kind == key).count() < *size {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a sandbox of the pool is.
    pub(super) fn pool_spec(&self, wanted: &PoolWanted) -> Result<Spec, Error> {
        self.spec_for(&wanted.request)
    }

    pub(super) fn pool_lock(&self, wait: Duration) -> Result<Lock, Error> {
        // The directory of locks is made with the ledger.
        drop(self.store()?);
        Ok(lock::take(&self.paths().pool_lock(), wait)?)
    }

    /// Waits for whoever fills the pool, and keeps anybody from it, so that what is removed meanwhile does not come back. Makes nothing.
    ///
    /// The wait is bounded: what is being made is then told as busy by whoever meets it.
    pub fn hold_pool(&self) -> PoolHeld {
        let path = self.paths().pool_lock();
        PoolHeld { _lock: path.exists().then(|| lock::take(&path, HOLD_WAIT).ok()).flatten() }
    }

    /// The same under the pool's lock.
    pub(super) fn fill(&self, wanted: &[(Spec, usize)]) -> Result<Filled, Error> {
        let mut lacking = BTreeMap::new();
        for (spec, size) in wanted {
            lacking.insert(self.pool_key(spec)?, (spec, *size));
        }
        let mut filled = Filled::default();
        for (id, key) in self.waiting()? {
            match lacking.get_mut(&key) {
                Some((_, size)) if *size > 0 => *size -= 1,
                Some(_) | None => filled.removed.extend(self.remove_pooled(&id)?),
            }
        }
        for (key, (spec, size)) in lacking {
            for _ in 0..size {
                filled.made.push(self.pool_one(&key, spec)?);
            }
        }
        Ok(filled)
    }

    /// Those that wait and are what they are recorded as.
    pub(super) fn waiting(&self) -> Result<Vec<(SandboxId, String)>, Error> {
        let Some(store) = self.look()? else { return Ok(Vec::new()) };
        let mut waiting = store.pooled()?;
        let current = |id: &SandboxId| match store.sandbox(id) {
            Ok(Some((record, entries))) => self.verdict(&record, &entries, Looker::Passer) == Verdict::Current,
            Ok(None) | Err(_) => false,
        };
        waiting.retain(|(id, _)| current(id));
        Ok(waiting)
    }

    /// The same, each with the moment it was made, in milliseconds since 1970 UTC.
    pub(crate) fn waiting_since(&self) -> Result<Vec<(SandboxId, i64)>, Error> {
        let waiting = self.waiting()?;
        let Some(store) = self.look()? else { return Ok(Vec::new()) };
        let made = |id: &SandboxId| Ok(store.sandbox(id)?.map(|(record, _)| record.created_ms));
        waiting.into_iter().filter_map(|(id, _)| made(&id).transpose().map(|made| made.map(|made| (id, made)))).collect()
    }

    /// Starts one, halts it and puts it where others can take it; on failure nothing of it stays.
    fn pool_one(&self, key: &str, spec: &Spec) -> Result<SandboxId, Error> {
        let made = self.create_from(None, Some(LIFETIME), spec)?;
        let pooled =
            self.start(&made.id, StartOptions::default()).and_then(|_| self.rehearse(&made.id, spec)).and_then(|()| self.put(&made, key));
        pooled.map_err(|e| self.take_back(std::slice::from_ref(&made), e))?;
        Ok(made.id)
    }

    /// Runs what the image warms up with, and the least there is to run: under TCG a hypervisor translates what it runs
    /// for the first time, and whoever takes the sandbox shall not wait for that.
    fn rehearse(&self, id: &SandboxId, spec: &Spec) -> Result<(), Error> {
        let least = vec!["true".to_owned()];
        for argv in image::rehearsal(spec.image.as_str()).into_iter().chain([least.clone(), least]) {
            let (mut out, mut err) = (std::io::sink(), std::io::sink());
            let io = ExecIo { stdin: None, stdout: &mut out, stderr: &mut err, signals: None };
            // How it ends is all the same: a command that is not there warms up nothing.
            self.exec(id, &ExecSpec { argv, timeout: Some(REHEARSAL), ..ExecSpec::default() }, io)?;
        }
        Ok(())
    }

    fn put(&self, made: &Made, key: &str) -> Result<(), Error> {
        let id = &made.id;
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, _) = store.sandbox(id)?.ok_or_else(missing)?;
        let (Some(run), true) = (record.run, record.seq == made.seq) else {
            return Err(Error::new(ErrorCode::Changed, format!("\"{id}\" was changed by another command while it was made")));
        };
        let pooled = after(id, record.state, Event::Pooled)?;
        perform(Effect::Pause, |_| self.order(id, &MonitorRequest::Pause))?;
        store.write(Commit::Pooled, |w| -> Result<(), Error> {
            w.update_run(id, &Run { pooled: key.to_owned(), ..run })?;
            w.set_expiry(id, None)?;
            w.set_state(id, record.generation, pooled)?;
            Ok(())
        })
    }

    /// Removes one that still waits; one that was taken meanwhile is somebody's.
    pub(crate) fn remove_pooled(&self, id: &SandboxId) -> Result<Option<SandboxId>, Error> {
        let deletion = self.delete_pooled(id, REMOVAL_WAIT)?;
        match deletion.failed.into_iter().next() {
            None => Ok(deletion.deleted.into_iter().next()),
            Some((_, e)) if matches!(e.code, ErrorCode::Busy | ErrorCode::Changed) => Ok(None),
            Some((_, e)) => Err(e),
        }
    }
}
