//! Takes a sandbox out of the pool: it gets what its owner asked for, and goes on.

use std::time::Duration;

use smolvm_host::effect::perform;
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
            let made = Made { id: id.clone(), seq: record.seq };
            match self.hand_over(&mut store, &record, &spec, run, (request.ttl, steps)) {
                Ok(()) => return Ok(Some(made)),
                Err(e) => {
                    drop((lock, store));
                    return Err(self.take_back(std::slice::from_ref(&made), e));
                }
            }
        }
        Ok(None)
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
