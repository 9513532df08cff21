//! `pause`: halts a guest where it stands. Its memory stays, its processors use none of the host's.

use std::time::{Duration, Instant};

use smolvm_host::effect::perform;
use smolvm_model::effect::{Commit, Effect};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::state::{Admission, Request, State};
use smolvm_proto::{MonitorReply, MonitorRequest};

use crate::error::Error;
use crate::installation::{LOCK_WAIT, Smolvm};
use crate::session::Session;
use crate::view::SandboxView;

/// Another motion of the guest, and how it is asked for and written down.
pub(crate) struct Move {
    pub(crate) request: Request,
    pub(crate) effect: Effect,
    pub(crate) order: MonitorRequest,
    pub(crate) state: State,
    pub(crate) commit: Commit,
}

/// Halting takes a moment, and giving the time to a guest that has been halted for long a few more.
const DEADLINE: Duration = Duration::from_secs(20);

impl Smolvm {
    /// Halts a running sandbox; one that is paused stays so.
    pub fn pause(&self, id: &SandboxId) -> Result<SandboxView, Error> {
        let wanted = Move {
            request: Request::Pause,
            effect: Effect::Pause,
            order: MonitorRequest::Pause,
            state: State::Paused,
            commit: Commit::Paused,
        };
        self.set_in_motion(id, &wanted)
    }

    /// Asks the monitor, whatever the record says, and writes down what it answers.
    pub(crate) fn set_in_motion(&self, id: &SandboxId, wanted: &Move) -> Result<SandboxView, Error> {
        let missing = || Error::no_such_sandbox(id);
        let mut store = self.store_if_any()?.ok_or_else(missing)?;
        let _lock = self.lock_existing(&store, id, LOCK_WAIT)?.ok_or_else(missing)?;
        let (record, entries) = store.sandbox(id)?.ok_or_else(missing)?;
        match self.admit(&record, &entries, wanted.request)? {
            Admission::Go | Admission::ReclaimThenGo => {}
            Admission::AlreadySo => return Ok(self.inspect(id)?.sandbox),
            Admission::Refused(refusal) => return Err(Error::refused_by_state(id, refusal)),
        }
        perform(wanted.effect, |_| self.order(id, &wanted.order))?;
        if record.state != wanted.state {
            store.write(wanted.commit, |w| w.set_state(id, record.generation, wanted.state))?;
        }
        Ok(self.inspect(id)?.sandbox)
    }

    /// Asks the monitor to halt the guest, or to let it go on.
    pub(crate) fn order(&self, id: &SandboxId, order: &MonitorRequest) -> Result<(), Error> {
        let mut session = Session::connect(self, id)?;
        session.send_request(order)?;
        match session.wait_reply(Instant::now() + DEADLINE).map_err(|e| e.about(id))? {
            MonitorReply::Paused | MonitorReply::Resumed => Ok(()),
            MonitorReply::Error { message, .. } => Err(Error::new(ErrorCode::GuestError, message).hint(format!("smolvm inspect {id}"))),
            MonitorReply::Status { .. }
            | MonitorReply::Located { .. }
            | MonitorReply::Frozen { .. }
            | MonitorReply::Merged
            | MonitorReply::Stopping
            | MonitorReply::Stopped
            | MonitorReply::Unknown => Err(Error::new(ErrorCode::Internal, "the monitor answered something else than it was asked")),
        }
    }
}
