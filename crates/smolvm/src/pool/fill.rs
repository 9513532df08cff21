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

/// What becomes of those that wait and that an order does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unasked {
    /// They go.
    Remove,
    /// They stay, for others may ask for them: who fills behind a command knows only what that was told.
    Leave,
}

impl Smolvm {
    /// Brings the pool to what is wanted; waits for another that is at it.
    pub fn fill_pool(&self, pool: &[PoolWanted]) -> Result<Filled, Error> {
        let wanted = pool.iter().map(|wanted| Ok((self.pool_spec(wanted)?, wanted.size.get()))).collect::<Result<Vec<_>, Error>>()?;
        let mut filled = Filled::default();
        // Who took one meanwhile left the filling to whoever held the lock, which is here.
        loop {
            let alone = self.pool_lock(FILL_WAIT)?;
            let more = self.fill(&wanted, Unasked::Remove)?;
            drop(alone);
            let goes_on = self.goes_on(&more, &wanted)?;
            filled.made.extend(more.made);
            filled.removed.extend(more.removed);
            if !goes_on {
                return Ok(filled);
            }
        }
    }

    /// Whether there is more to do after a round: fewer wait than are wanted, because some were taken. Where one of those that
    /// were just made does not wait and was not taken, the next would fare no better, and that is an error.
    pub(super) fn goes_on(&self, round: &Filled, wanted: &[(Spec, usize)]) -> Result<bool, Error> {
        match self.pooled_that(|verdict| *verdict != Verdict::Current)?.into_iter().find(|(id, _)| round.made.contains(id)) {
            Some((id, _)) => Err(Error::new(ErrorCode::GuestError, format!("\"{id}\" ended as soon as it waited in the pool"))
                .hint(format!("smolvm logs {id}"))),
            None => self.lacks(wanted),
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
    pub(super) fn fill(&self, wanted: &[(Spec, usize)], unasked: Unasked) -> Result<Filled, Error> {
        let mut lacking = BTreeMap::new();
        for (spec, size) in wanted {
            lacking.insert(self.pool_key(spec)?, (spec, *size));
        }
        let mut filled = Filled::default();
        for (id, _) in self.dead()? {
            // One that cannot be removed keeps nobody from filling: it is stale, and `cleanup` says what is the matter.
            filled.removed.extend(self.remove_pooled(&id).ok().flatten());
        }
        for (id, key) in self.waiting()? {
            match lacking.get_mut(&key) {
                Some((_, size)) if *size > 0 => *size -= 1,
                Some(_) | None if unasked == Unasked::Remove || self.is_of_old_image(&id, wanted)? => {
                    filled.removed.extend(self.remove_pooled(&id)?);
                }
                Some(_) | None => {}
            }
        }
        for (key, (spec, size)) in lacking {
            for _ in 0..size {
                filled.made.push(self.pool_one(&key, spec)?);
            }
        }
        Ok(filled)
    }

    /// Whether it was made of what an image was before that became another: nobody can ask for it any more.
    fn is_of_old_image(&self, id: &SandboxId, wanted: &[(Spec, usize)]) -> Result<bool, Error> {
        let Some((record, _)) = self.look()?.map(|store| store.sandbox(id)).transpose()?.flatten() else { return Ok(false) };
        let of = &record.spec;
        Ok(wanted.iter().any(|(spec, _)| spec.image == of.image && spec.image_digest != of.image_digest))
    }

    /// Those that wait and are what they are recorded as.
    pub(super) fn waiting(&self) -> Result<Vec<(SandboxId, String)>, Error> {
        self.pooled_that(|verdict| *verdict == Verdict::Current)
    }

    /// Those that wait on record alone: their process is gone.
    pub(crate) fn dead(&self) -> Result<Vec<(SandboxId, String)>, Error> {
        self.pooled_that(|verdict| *verdict == Verdict::Stale)
    }

    fn pooled_that(&self, fits: impl Fn(&Verdict) -> bool) -> Result<Vec<(SandboxId, String)>, Error> {
        let Some(store) = self.look()? else { return Ok(Vec::new()) };
        let mut pooled = store.pooled()?;
        pooled.retain(|(id, _)| match store.sandbox(id) {
            Ok(Some((record, entries))) => fits(&self.verdict(&record, &entries, Looker::Passer)),
            Ok(None) | Err(_) => false,
        });
        Ok(pooled)
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test starts a process of its own, which hangs")]
mod tests {
    use std::process::{Child, Command, Stdio};

    use smolvm_host::store::NewSandbox;
    use smolvm_model::ledger::{Entry, Kind, ProcessIdentity, Status};
    use smolvm_model::spec::NetworkMode;
    use smolvm_model::state::State;

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing;

    const TOKEN: &str = "11111111-1111-4111-8111-111111111111";

    /// A process with the words of a hypervisor.
    fn process() -> Child {
        Command::new("/bin/sh").args(["-s", "-", "-", TOKEN]).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// One that waits, and whose process this is.
    fn pooled(vm: &Smolvm, process: &Child) -> SandboxId {
        let id: SandboxId = "vm-a".parse().unwrap();
        let pid = process.id();
        let start_ticks = smolvm_host::proc::identity::look(vm.proc(), pid).unwrap().unwrap().start_ticks;
        let identity = Some(ProcessIdentity { pid, start_ticks, boot_id: vm.boot_id.clone(), token: TOKEN.to_owned() });
        let spec = testing::spec(NetworkMode::None);
        let entry = Entry { sandbox: id.clone(), kind: Kind::Process, key: TOKEN.to_owned(), status: Status::Held, identity };
        let mut store = vm.store().unwrap();
        store
            .write(Commit::Create, |w| {
                w.insert_sandbox(&NewSandbox { id: &id, spec: &spec, created_ms: 0, expires_ms: None })?;
                w.set_run(&id, &testing::run("kind"))?;
                w.insert_entry(&entry)?;
                w.force_state(&id, State::Pooled)
            })
            .unwrap();
        id
    }

    #[test]
    fn what_died_while_it_waited_is_removed_and_not_made_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let mut process = process();
        let dead = pooled(&vm, &process);
        process.kill().unwrap();
        process.wait().unwrap();
        let round = Filled { made: vec![dead.clone()], removed: Vec::new() };
        assert_eq!(vm.goes_on(&round, &[]).unwrap_err().code, ErrorCode::GuestError);
        assert!(!vm.goes_on(&Filled::default(), &[]).unwrap());
        assert_eq!(vm.fill(&[], Unasked::Leave).unwrap(), Filled { made: Vec::new(), removed: vec![dead.clone()] });
        assert!(vm.list().unwrap().sandboxes.is_empty());
        // Removed is not died.
        assert!(!vm.goes_on(&round, &[]).unwrap());
    }

    #[test]
    fn who_fills_behind_a_command_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let mut process = process();
        let id = pooled(&vm, &process);
        assert_eq!(vm.waiting().unwrap(), [(id.clone(), "kind".to_owned())]);
        assert_eq!(vm.fill(&[], Unasked::Leave).unwrap(), Filled::default());
        assert_eq!(vm.waiting().unwrap().len(), 1);
        process.kill().unwrap();
        process.wait().unwrap();
        let spec = testing::spec(NetworkMode::None);
        assert!(!vm.is_of_old_image(&id, &[(spec.clone(), 1)]).unwrap());
        assert!(vm.is_of_old_image(&id, &[(Spec { image_digest: "new".to_owned(), ..spec }, 1)]).unwrap());
    }
}
