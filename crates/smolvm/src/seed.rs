//! Stale sandboxes on purpose: everything `create` and `start` acquire, with stand-ins for the
//! processes, which are then killed. For benchmarks and tests; not in the shipped binary.

use std::process::Child;

use smolvm_host::proc::identity;
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Kind, ProcessIdentity, Status};
use smolvm_model::name::SandboxId;
use smolvm_model::state::State;

use crate::create::{CreateRequest, make_run_dir};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::network;
use crate::start::begin;

/// Two real processes whose argv has mark and token at their fixed places.
#[derive(Debug)]
pub struct StandIns {
    /// In place of the hypervisor.
    pub hypervisor: Child,
    /// In place of the monitor.
    pub monitor: Child,
}

impl Smolvm {
    /// Makes one sandbox of image `minimal` that looks as if hypervisor and monitor had been killed.
    pub fn seed(&self, id: &SandboxId, spawn: impl Fn(&str, &str) -> std::io::Result<StandIns>) -> Result<(), Error> {
        let odd = |what: &str| Error::new(ErrorCode::Internal, what.to_owned());
        let image = "minimal".parse().map_err(|_| odd("no image name"))?;
        self.create_recorded(&CreateRequest { name: Some(id.clone()), ..CreateRequest::of(image) })?;
        let mut store = self.store()?;
        let _lock = self.lock(id)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(|| Error::no_such_sandbox(id))?;
        let plan = self.plan_start(&record, None)?;
        begin(&mut store, &record, &plan)?;
        make_run_dir(self, id)?;
        // The descriptor goes at once: the TAP is persistent, as under a hypervisor that was killed.
        drop(network::raise(self, &mut store, id, &entries)?);
        let fail = |e: std::io::Error| odd("no stand-in").because(e);
        let mut stand_ins = spawn(&self.mark(id).to_string(), plan.token.as_str()).map_err(fail)?;
        let known = |child: &Child| -> Result<ProcessIdentity, Error> {
            let seen = identity::look(self.proc(), child.id()).map_err(fail)?.ok_or_else(|| odd("the stand-in ended"))?;
            Ok(ProcessIdentity {
                pid: child.id(),
                start_ticks: seen.start_ticks,
                boot_id: self.boot_id.clone(),
                token: plan.token.to_string(),
            })
        };
        let (hypervisor, monitor) = (known(&stand_ins.hypervisor)?, known(&stand_ins.monitor)?);
        store.write(Commit::Raised, |w| -> Result<(), Error> {
            w.set_status(Kind::RunDir, id.as_str(), Status::Held)?;
            w.set_status_of_kind(id, Kind::Tap, Status::Held)?;
            w.set_status_of_kind(id, Kind::NftElements, Status::Held)?;
            w.set_identity(Kind::Process, plan.token.as_str(), &hypervisor)?;
            w.set_identity(Kind::Monitor, plan.token.as_str(), &monitor)?;
            w.set_state(id, record.generation + 1, State::Running)?;
            Ok(())
        })?;
        for child in [&mut stand_ins.hypervisor, &mut stand_ins.monitor] {
            child.kill().and_then(|()| child.wait()).map_err(fail)?;
        }
        Ok(())
    }
}
