//! `pause`: halts a guest where it stands. Its memory stays, its processors use none of the host's.

use std::time::{Duration, Instant};

use smolvm_model::effect::Commit;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::state::{Admission, Request, State};
use smolvm_proto::{MonitorReply, MonitorRequest};

use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::session::Session;
use crate::view::SandboxView;

/// Halting takes a moment, and giving the time to a guest that has been halted for long a few more.
const DEADLINE: Duration = Duration::from_secs(20);

impl Smolvm {
    /// Halts a running sandbox; one that is paused stays so.
    pub fn pause(&self, id: &SandboxId) -> Result<SandboxView, Error> {
        self.set_in_motion(id, Request::Pause, &MonitorRequest::Pause, (State::Paused, Commit::Paused))
    }

    /// Asks the monitor, whatever the record says, and writes down what it answers.
    pub(crate) fn set_in_motion(
        &self,
        id: &SandboxId,
        request: Request,
        order: &MonitorRequest,
        (state, commit): (State, Commit),
    ) -> Result<SandboxView, Error> {
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        match self.admit(&record, &entries, request)? {
            Admission::Go | Admission::ReclaimThenGo => {}
            Admission::AlreadySo => return Ok(self.inspect(id)?.sandbox),
            Admission::Refused(refusal) => return Err(Error::refused_by_state(id, refusal)),
        }
        let mut session = Session::connect(self, id)?;
        session.send_request(order)?;
        match session.wait_reply(Instant::now() + DEADLINE).map_err(|e| e.about(id))? {
            MonitorReply::Paused | MonitorReply::Resumed => {}
            MonitorReply::Error { message, .. } => {
                return Err(Error::new(ErrorCode::GuestError, message).hint(format!("smolvm inspect {id}")));
            }
            MonitorReply::Status { .. } | MonitorReply::Stopping | MonitorReply::Stopped | MonitorReply::Unknown => {
                return Err(Error::new(ErrorCode::Internal, "the monitor answered something else than it was asked"));
            }
        }
        if record.state != state {
            store.write(commit, |w| w.set_state(id, record.generation, state))?;
        }
        Ok(self.inspect(id)?.sandbox)
    }
}
