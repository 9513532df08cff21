//! Holds the records against the host: which of the processes that are recorded are really there.

use smolvm_host::lock;
use smolvm_host::proc::identity::{Presence, Recorded, presence};
use smolvm_host::store::SandboxRecord;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity};
use smolvm_model::state::{Observed, State, Verdict, judge};

use crate::error::Error;
use crate::installation::Smolvm;

/// Who holds the sandbox's lock during a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looker {
    /// The one who looks: a held lock is no sign of somebody else at work.
    Holder,
    /// Perhaps somebody else.
    Passer,
}

impl Smolvm {
    /// Whether the record still holds.
    pub(crate) fn verdict(&self, record: &SandboxRecord, entries: &[Entry], looker: Looker) -> Verdict {
        let observed = self.observe(record, entries, looker).unwrap_or_else(|e| Observed::Unknown { evidence: e.one_line() });
        judge(record.state, &observed)
    }

    fn observe(&self, record: &SandboxRecord, entries: &[Entry], looker: Looker) -> Result<Observed, Error> {
        let process = entries.iter().find(|e| e.kind == Kind::Process && e.sandbox == record.id);
        if let Some(identity) = process.and_then(|e| e.identity.as_ref()) {
            match self.presence(identity) {
                Presence::Alive => return Ok(Observed::Alive),
                Presence::Unknown { evidence } => return Ok(Observed::Unknown { evidence }),
                Presence::Gone | Presence::Recycled => {}
            }
        }
        let at_work = match record.state {
            State::Creating | State::Deleting => self.somebody_at(record, looker)?,
            State::Starting | State::Stopping => self.somebody_at(record, looker)? || self.monitor_lives(record)?,
            State::Created | State::Running | State::Paused | State::Stopped | State::Failed => false,
        };
        Ok(if at_work { Observed::AtWork } else { Observed::Gone })
    }

    pub(crate) fn presence(&self, identity: &ProcessIdentity) -> Presence {
        let recorded =
            Recorded { pid: identity.pid, start_ticks: identity.start_ticks, boot_id: &identity.boot_id, token: &identity.token };
        presence(self.proc(), &recorded, &self.boot_id)
    }

    fn somebody_at(&self, record: &SandboxRecord, looker: Looker) -> Result<bool, Error> {
        match looker {
            Looker::Holder => Ok(false),
            Looker::Passer => Ok(lock::is_held(&self.paths().lock(&record.id))?),
        }
    }

    fn monitor_lives(&self, record: &SandboxRecord) -> Result<bool, Error> {
        Ok(lock::is_held(&self.paths().monitor_lock(&record.id))?)
    }
}
