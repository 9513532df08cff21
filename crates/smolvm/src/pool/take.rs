//! Takes a sandbox out of the pool: it gets what its owner asked for, and goes on.

use std::time::Duration;

use smolvm_host::effect::perform;
use smolvm_host::lock::Lock;
use smolvm_host::store::{NewSandbox, Run, SandboxRecord, Store};
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::Spec;
use smolvm_model::state::{Event, State, Verdict, next};
use smolvm_proto::MonitorRequest;

use super::PoolWanted;
use crate::clock::now_ms;
use crate::create::{CreateRequest, Init, Made};
use crate::delete::Deletion;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::observe::Looker;
use crate::start::{StartFrom, Steps};

impl Smolvm {
    /// One that waits and is what was asked for, running; none if there is none. One that does not come is gone.
    ///
    /// What stands in the way of taking one is worth a word and no reason to fail: another is made as if there were no pool.
    pub fn take(&self, pool: &[PoolWanted], request: &CreateRequest, from: StartFrom) -> Result<Option<Made>, Error> {
        let of_pool = from == StartFrom::Template
            && request.init == Init::Agent
            && request.name.is_none()
            && pool.iter().any(|wanted| wanted.request.image == request.image);
        if of_pool { self.take_one(request) } else { Ok(None) }
    }

    fn take_one(&self, request: &CreateRequest) -> Result<Option<Made>, Error> {
        let mut steps = Steps::begin();
        let spec = self.spec_for(request)?;
        let key = self.pool_key(&spec)?;
        let Some(mut store) = self.store_if_any()? else { return Ok(None) };
        steps.done("plan");
        for (id, _) in store.pooled()?.into_iter().filter(|(_, kind)| *kind == key) {
            // Another is taking it, or removing it.
            let Some(lock) = self.lock_existing(&store, &id, Duration::ZERO).ok().flatten() else { continue };
            let Some((record, entries)) = store.sandbox(&id)? else { continue };
            let (state, Some(run)) = (record.state, record.run.clone()) else { continue };
            if state != State::Pooled || run.pooled != key || self.verdict(&record, &entries, Looker::Holder) != Verdict::Current {
                continue;
            }
            return self.take_this((&mut store, lock), &record, &spec, run, (request.ttl, steps)).map(Some);
        }
        Ok(None)
    }

    /// Takes one whose lock is held; what does not come is gone before anybody else can have the lock, and take it.
    fn take_this(
        &self,
        (store, lock): (&mut Store, Lock),
        record: &SandboxRecord,
        spec: &Spec,
        run: Run,
        rest: (Option<Span>, Steps),
    ) -> Result<Made, Error> {
        let id = &record.id;
        let Err(cause) = self.hand_over(store, record, spec, run, rest) else { return Ok(Made { id: id.clone(), seq: record.seq }) };
        let mut deletion = Deletion::default();
        let deleted = self.delete_held(store, vec![(id.clone(), lock)], &mut deletion);
        let waits_on = || matches!(store.sandbox(id), Ok(Some((record, _))) if record.state == State::Pooled);
        // One that still waits is whoever's comes next.
        if (deleted.is_ok() && deletion.failed.is_empty()) || waits_on() {
            return Err(cause);
        }
        Err(cause.hint(format!("what was made could not be taken back: smolvm delete {id}")))
    }

    fn hand_over(
        &self,
        store: &mut Store,
        record: &SandboxRecord,
        spec: &Spec,
        run: Run,
        (ttl, mut steps): (Option<Span>, Steps),
    ) -> Result<(), Error> {
        let id = &record.id;
        let created_ms = now_ms();
        let expires_ms = ttl.map(|ttl| created_ms.saturating_add(i64::try_from(ttl.duration().as_millis()).unwrap_or(i64::MAX)));
        let run = Run { started_from_reason: format!("{}, from the pool", run.started_from_reason), pooled: String::new(), ..run };
        let taken = after(id, record.state, Event::Taken)?;
        let generation = store.write(Commit::Taken, |w| -> Result<i64, Error> {
            w.assign(&NewSandbox { id, spec, created_ms, expires_ms })?;
            w.update_run(id, &run)?;
            Ok(w.set_state(id, record.generation, taken)?)
        })?;
        steps.done("record");
        if spec != &record.spec {
            self.write_env(id, spec)?;
        }
        perform(Effect::Resume, |_| self.order(id, &MonitorRequest::Resume))?;
        steps.done("resume");
        let running = after(id, taken, Event::Thawed)?;
        store.write(Commit::Resumed, |w| -> Result<(), Error> {
            w.update_run(id, &Run { steps: steps.taken(), ..run })?;
            w.set_state(id, generation, running)?;
            Ok(())
        })
    }
}

/// The state after an event that can happen now.
pub(super) fn after(id: &SandboxId, state: State, event: Event) -> Result<State, Error> {
    next(state, event).ok_or_else(|| Error::new(ErrorCode::InvalidState, format!("\"{id}\" is {state}, which it cannot be here")))
}

#[cfg(test)]
mod tests {
    use smolvm_host::lock;
    use smolvm_model::spec::NetworkMode;

    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use crate::testing;

    /// No monitor answers for it, so whoever takes it fails after it was assigned; another waits for its lock all the time.
    #[test]
    fn one_that_does_not_come_is_gone_before_another_can_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::new(Paths::beneath(dir.path()));
        let vm = Smolvm::open(settings.clone()).unwrap();
        let (id, spec) = ("vm-a".parse::<SandboxId>().unwrap(), testing::spec(NetworkMode::None));
        let mut store = vm.store().unwrap();
        store
            .write(Commit::Create, |w| {
                w.insert_sandbox(&NewSandbox { id: &id, spec: &spec, created_ms: 0, expires_ms: None })?;
                w.set_run(&id, &testing::run("kind"))?;
                w.force_state(&id, State::Pooled)
            })
            .unwrap();
        let lock = vm.lock_existing(&store, &id, Duration::ZERO).unwrap().unwrap();
        let (record, _) = store.sandbox(&id).unwrap().unwrap();
        let (ready, go) = std::sync::mpsc::channel();
        let other = std::thread::spawn({
            let id = id.clone();
            move || {
                let vm = Smolvm::open(settings).unwrap();
                let mut store = vm.store().unwrap();
                let path = vm.paths().lock(&id);
                ready.send(()).unwrap();
                let held = std::iter::repeat_with(|| lock::take(&path, Duration::ZERO)).find_map(Result::ok).unwrap();
                let waits = store.sandbox(&id).unwrap().is_some();
                if waits {
                    store.write(Commit::Taken, |w| w.force_state(&id, State::Running)).unwrap();
                } else {
                    held.remove().unwrap();
                }
                waits
            }
        });
        go.recv().unwrap();
        let run = record.run.clone().unwrap();
        vm.take_this((&mut store, lock), &record, &spec, run, (None, Steps::begin())).unwrap_err();
        let taken = other.join().unwrap();
        assert_eq!(store.sandbox(&id).unwrap().is_some(), taken, "what another took was deleted");
        assert!(!taken);
    }
}
