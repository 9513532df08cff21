//! `stop`: shut the guest down in order, then release what its run held.

use std::time::{Duration, Instant};

use smolvm_host::store::{Exit, SandboxRecord, Store};
use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::state::{Admission, Event, Request, State, next};
use smolvm_proto::{MonitorReply, MonitorRequest};

use crate::clock::now_ms;
use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::monitor::GUEST_POWEROFF;
use crate::network;
use crate::session::Session;
use crate::view::SandboxView;

/// How long guest processes get between SIGTERM and SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long the whole orderly shutdown may take before the hypervisor is ended: grace, sync of a slow
/// disk, and a guest under TCG.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// What is left of the deadline for killing what did not end, and for the disks.
const LAST_STEPS: Duration = Duration::from_secs(5);

impl Smolvm {
    /// Stops a sandbox; what its guest wrote before is on its disk. One that does not run is left alone.
    pub fn stop(&self, id: &SandboxId, deadline: Duration) -> Result<SandboxView, Error> {
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        match self.admit(&record, &entries, Request::Stop)? {
            Admission::AlreadySo => {}
            Admission::ReclaimThenGo => {
                self.reclaim(&mut store, &record)?;
                network::unreleased(&network::release_shared(self, &mut store)?)?;
            }
            Admission::Go => {
                let stopped = self.stop_running(&mut store, &record, deadline);
                let shared = network::release_shared(self, &mut store).and_then(|parts| network::unreleased(&parts));
                stopped.and(shared)?;
            }
            Admission::Refused(refusal) => return Err(Error::refused_by_state(id, refusal)),
        }
        Ok(self.inspect(id)?.sandbox)
    }

    fn stop_running(&self, store: &mut Store, record: &SandboxRecord, deadline: Duration) -> Result<(), Error> {
        let id = &record.id;
        if let Some(stopping) = next(record.state, Event::StopBegun) {
            store.write(Commit::Stop, |w| w.set_state(id, record.generation, stopping))?;
        }
        // A guest or monitor that does not answer is no reason to keep the machine: the teardown ends it.
        // An init has services to end, one after the other; commands have only themselves.
        let grace = if record.spec.init.is_some() { deadline.saturating_sub(LAST_STEPS) } else { GRACE.min(deadline / 2) };
        let orderly = self.ask_to_stop(id, grace, deadline).map_err(|e| e.about(id));
        // Unless nobody answered because the guest went down by itself at that moment: its monitor noted so.
        let by_itself = orderly.is_err() && powered_itself_off(store, id);
        self.release_run(store, id, State::Stopped, None)?;
        if by_itself {
            return Ok(());
        }
        let exit = Exit { kind: "stopped".to_owned(), code: None, signal: None, at_ms: now_ms() };
        store.write(Commit::Exit, |w| w.set_exit(id, Some(&exit)))?;
        orderly.map_err(|e| {
            let text = format!(
                "sandbox \"{id}\" is stopped, but its guest did not shut down in order ({}); what it had not synced may be lost",
                e.one_line()
            );
            Error::new(e.code, text)
        })
    }

    /// The orderly half: processes ended, file systems synced.
    fn ask_to_stop(&self, id: &SandboxId, grace: Duration, deadline: Duration) -> Result<(), Error> {
        let until = Instant::now() + deadline;
        let mut session = Session::connect(self, id)?;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        session.send_request(&MonitorRequest::Stop { grace_ms })?;
        loop {
            match session.wait_reply(until)? {
                MonitorReply::Stopped => return Ok(()),
                MonitorReply::Error { message, .. } => return Err(Error::new(ErrorCode::GuestError, message)),
                MonitorReply::Stopping
                | MonitorReply::Status { .. }
                | MonitorReply::Paused
                | MonitorReply::Resumed
                | MonitorReply::Located { .. }
                | MonitorReply::Frozen { .. }
                | MonitorReply::Merged
                | MonitorReply::Unknown => {}
            }
        }
    }
}

/// A new run forgets how the last one ended, so this is about the present one.
fn powered_itself_off(store: &Store, id: &SandboxId) -> bool {
    matches!(store.sandbox(id), Ok(Some((SandboxRecord { exit: Some(exit), .. }, _))) if exit.kind == GUEST_POWEROFF)
}
