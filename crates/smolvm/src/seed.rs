//! Stale sandboxes on purpose: everything `create` and `start` acquire, with stand-ins for the
//! processes, which are then killed. For benchmarks and tests; not in the shipped binary.

use std::net::Ipv4Addr;
use std::process::Child;

use smolvm_host::image::template::DiskState;
use smolvm_host::proc::identity;
use smolvm_host::random;
use smolvm_host::store::{NewSandbox, Store};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity, Status};
use smolvm_model::name::{LaunchToken, MacAddr, SandboxId, TapName};
use smolvm_model::network::Guest;
use smolvm_model::state::State;

use crate::create::{CreateRequest, make_run_dir};
use crate::delete::IfMissing;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::network;
use crate::start::begin;

/// Rows in one transaction.
const ROWS_AT_ONCE: usize = 1000;

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
        let image = "minimal".parse().map_err(|_| odd("no image name"))?;
        self.create_recorded(&CreateRequest { name: Some(id.clone()), ..CreateRequest::of(image) })?;
        let mut store = self.store()?;
        let _lock = self.lock(id)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(|| Error::no_such_sandbox(id))?;
        let plan = self.plan_start(&record.spec, None, DiskState::Fresh)?;
        begin(&mut store, &record, &plan)?;
        make_run_dir(self, id)?;
        // The descriptor goes at once: the TAP is persistent, as under a hypervisor that was killed.
        network::admit(self, &mut store, id, &entries, network::Look::begin(self))?;
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

    /// Records sandboxes that look as if hypervisor and monitor had been killed, and makes nothing that the records name:
    /// for looks at very many rows. Their specification is that of a real one, which is made first and deleted again.
    pub fn seed_rows(&self, ids: &[SandboxId]) -> Result<(), Error> {
        let Some(first) = ids.first() else { return Ok(()) };
        let image = "minimal".parse().map_err(|_| odd("no image name"))?;
        self.create_recorded(&CreateRequest { name: Some(first.clone()), ..CreateRequest::of(image) })?;
        let mut store = self.store()?;
        let look = |store: &Store| store.sandbox(first)?.map(|(record, _)| record).ok_or_else(|| Error::no_such_sandbox(first));
        let record = look(&store)?;
        begin(&mut store, &record, &self.plan_start(&record.spec, None, DiskState::Fresh)?)?;
        let run = look(&store)?.run.ok_or_else(|| odd("a start that has no run"))?;
        self.delete(std::slice::from_ref(first), IfMissing::Fail)?;
        let mut number = u32::try_from(store.count()?).map_err(|_| odd("too many rows"))?;
        for part in ids.chunks(ROWS_AT_ONCE) {
            store.write(Commit::Raised, |w| -> Result<(), Error> {
                for id in part {
                    number += 1;
                    w.insert_sandbox(&NewSandbox { id, spec: &record.spec, created_ms: record.created_ms, expires_ms: None })?;
                    w.set_run(id, &run)?;
                    w.set_state(id, 0, State::Running)?;
                    for entry in self.entries_of(id, number)? {
                        w.insert_entry(&entry)?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// All that a running sandbox has in the ledger.
    fn entries_of(&self, id: &SandboxId, number: u32) -> Result<Vec<Entry>, Error> {
        let token = LaunchToken::from_random(random::bytes().map_err(|e| odd("no random bytes").because(e))?).to_string();
        // Above every pid that a kernel hands out.
        let who = |which| ProcessIdentity {
            pid: (1 << 22) + 2 * number + which,
            start_ticks: 1,
            boot_id: self.boot_id.clone(),
            token: token.clone(),
        };
        let [_, high, middle, low] = number.to_be_bytes();
        let guest = Guest {
            mark: self.mark(id),
            tap: TapName::derive(&self.install, id),
            mac: MacAddr::local([0, 0, high, middle, low]),
            address: Ipv4Addr::new(10, high, middle, low),
        };
        let entry = |kind, key, status, identity| Entry { sandbox: id.clone(), kind, key, status, identity };
        Ok(vec![
            entry(Kind::Process, token.clone(), Status::Held, Some(who(0))),
            entry(Kind::Monitor, token.clone(), Status::Held, Some(who(1))),
            entry(Kind::NftElements, guest.key().to_string(), Status::Held, None),
            entry(Kind::Tap, guest.tap.to_string(), Status::Held, None),
            entry(Kind::RunDir, id.to_string(), Status::Held, None),
            entry(Kind::StateDir, id.to_string(), Status::Held, None),
            entry(Kind::Address, guest.address.to_string(), Status::Reserved, None),
            entry(Kind::Mac, guest.mac.to_string(), Status::Reserved, None),
            entry(Kind::Uid, (1_900_000_000 + number).to_string(), Status::Reserved, None),
        ])
    }
}

fn odd(what: &str) -> Error {
    Error::new(ErrorCode::Internal, what.to_owned())
}
