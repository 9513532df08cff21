//! Holds the records against the host: which of the processes that are recorded are really there.

use std::collections::HashSet;

use rustix::process::geteuid;
use smolvm_host::lock;
use smolvm_host::proc::identity::{Presence, Recorded, effective_uid, presence};
use smolvm_host::proc::scan;
use smolvm_host::store::SandboxRecord;
use smolvm_model::ledger::{Entry, Kind, ProcessIdentity};
use smolvm_model::name::SandboxId;
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

/// From so many records on, one list of all processes is cheaper than a look for each.
const LIST_FROM: usize = 32;

/// The pids that are there, where many records are judged at once. A process that was recorded before the list was
/// made and is not in it is gone: the kernel leaves out none that lives through the whole list.
#[derive(Debug, Default)]
pub(crate) struct Pids(Option<HashSet<u32>>);

impl Pids {
    /// The list for judging so many records, which the caller has read already.
    pub(crate) fn for_records(vm: &Smolvm, count: usize) -> Self {
        // Without a list each is looked at.
        Self(if count < LIST_FROM { None } else { scan::pids(vm.proc()).ok() })
    }

    /// Whether there may be such a process.
    pub(crate) fn may_live(&self, pid: u32) -> bool {
        self.0.as_ref().is_none_or(|pids| pids.contains(&pid))
    }
}

/// The hypervisor that is recorded of a sandbox.
pub(crate) fn process_of<'a>(record: &SandboxRecord, entries: &'a [Entry]) -> Option<&'a ProcessIdentity> {
    entries.iter().find(|e| e.kind == Kind::Process && e.sandbox == record.id)?.identity.as_ref()
}

impl Smolvm {
    /// Whether the record still holds.
    pub(crate) fn verdict(&self, record: &SandboxRecord, entries: &[Entry], looker: Looker) -> Verdict {
        self.verdict_among(&Pids::default(), record, process_of(record, entries), looker)
    }

    /// The same for one of many records.
    pub(crate) fn verdict_among(&self, pids: &Pids, record: &SandboxRecord, process: Option<&ProcessIdentity>, looker: Looker) -> Verdict {
        let observed = self.observe(pids, record, process, looker).unwrap_or_else(|e| Observed::Unknown { evidence: e.one_line() });
        judge(record.state, &observed)
    }

    fn observe(&self, pids: &Pids, record: &SandboxRecord, process: Option<&ProcessIdentity>, looker: Looker) -> Result<Observed, Error> {
        if let Some(identity) = process.filter(|identity| pids.may_live(identity.pid)) {
            match self.presence(&record.id, identity) {
                Presence::Alive => return Ok(Observed::Alive),
                Presence::Unknown { evidence } => return Ok(Observed::Unknown { evidence }),
                Presence::Gone | Presence::Recycled => {}
            }
        }
        let at_work = match record.state {
            State::Creating | State::Deleting => self.somebody_at(record, looker)?,
            State::Starting | State::Stopping => self.somebody_at(record, looker)? || self.monitor_lives(record)?,
            State::Created | State::Running | State::Paused | State::Pooled | State::Stopped | State::Failed => false,
        };
        Ok(if at_work { Observed::AtWork } else { Observed::Gone })
    }

    /// Whether a process that is recorded of a sandbox is there.
    pub(crate) fn presence(&self, sandbox: &SandboxId, identity: &ProcessIdentity) -> Presence {
        presence(self.proc(), &recorded(identity), &self.boot_id, || self.presence_by_uid(sandbox, identity.pid))
    }

    /// The same of one that the kernel says it is, and that does not have the words it was started with.
    fn presence_by_uid(&self, sandbox: &SandboxId, pid: u32) -> Presence {
        let unknown =
            |why: String| Presence::Unknown { evidence: format!("process {pid} has other words than it was started with, {why}") };
        let uid = match effective_uid(self.proc(), pid) {
            Ok(Some(uid)) => uid,
            Ok(None) => return Presence::Gone,
            Err(e) => return unknown(format!("and its uid cannot be read: {e}")),
        };
        match self.reserved_uids(sandbox) {
            Ok(reserved) => match whose(uid, &reserved, geteuid().as_raw()) {
                Whose::Its => Presence::Alive,
                Whose::Strangers => Presence::Recycled,
                Whose::Unclear => unknown("and this user's uid, under which anything may run".to_owned()),
            },
            Err(e) => unknown(format!("and which uid is its own cannot be read: {}", e.one_line())),
        }
    }

    /// The uid that is reserved for a sandbox's hypervisor, where there is one.
    pub(crate) fn reserved_uids(&self, sandbox: &SandboxId) -> Result<Vec<u32>, Error> {
        let Some(store) = self.store_if_any()? else { return Ok(Vec::new()) };
        let entries = store.sandbox(sandbox)?.into_iter().flat_map(|(_, entries)| entries);
        Ok(entries.filter(|e| e.kind == Kind::Uid).filter_map(|e| e.key.parse().ok()).collect())
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

/// Whose a process can be, by its uid: without capabilities it cannot take another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The sandbox's, for nobody else has that uid.
    Its,
    /// It may be the sandbox's, and anything else that this user runs.
    Unclear,
    /// Not the sandbox's.
    Strangers,
}

/// `reserved` are the uids that only this sandbox has; a user without rights starts hypervisors under `own`.
fn whose(uid: u32, reserved: &[u32], own: u32) -> Whose {
    if reserved.contains(&uid) {
        Whose::Its
    } else if reserved.is_empty() && uid == own && own != 0 {
        Whose::Unclear
    } else {
        Whose::Strangers
    }
}

fn recorded(identity: &ProcessIdentity) -> Recorded<'_> {
    Recorded { pid: identity.pid, start_ticks: identity.start_ticks, boot_id: &identity.boot_id, token: &identity.token }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;

    /// Whether a list is at hand or not: this process lives, one of another start time and one of a free pid do not.
    #[test]
    fn a_list_of_processes_says_what_a_look_at_each_says() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let (me, sandbox) = (std::process::id(), "vm-a".parse().unwrap());
        let (few, many) = (Pids::for_records(&vm, 1), Pids::for_records(&vm, LIST_FROM));
        assert!(few.0.is_none() && many.0.as_ref().unwrap().contains(&me));
        for pids in [few, many] {
            assert!(pids.may_live(me));
            let identity =
                |pid, start_ticks| ProcessIdentity { pid, start_ticks, boot_id: vm.boot_id.clone(), token: "none of its words".to_owned() };
            // Above every pid that a kernel hands out, and one that was handed out again.
            for gone in [identity((1 << 22) + 1, 1), identity(me, 1)] {
                let alive = Some(&gone).filter(|i| pids.may_live(i.pid)).is_some_and(|i| vm.presence(&sandbox, i) == Presence::Alive);
                assert!(!alive, "{gone:?}");
            }
        }
    }

    /// A hypervisor can overwrite its words, and not its uid.
    #[test]
    fn whose_a_process_is_by_its_uid() {
        const RESERVED: u32 = 1_987_600_001;
        assert_eq!(whose(RESERVED, &[RESERVED], 0), Whose::Its);
        for (uid, reserved, own) in
            [(0, &[RESERVED][..], 0), (RESERVED + 1, &[RESERVED], 0), (1000, &[RESERVED], 1000), (0, &[], 0), (7, &[], 1000)]
        {
            assert_eq!(whose(uid, reserved, own), Whose::Strangers, "{uid} {reserved:?} {own}");
        }
        assert_eq!(whose(1000, &[], 1000), Whose::Unclear);
    }
}
