//! Looks at the host again, each kind in one look: for processes when they were ended, and for everything when all was done.

use std::collections::HashSet;

use smolvm_host::net::{nft, tap};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Kind, Status};
use smolvm_model::network::ElementKey;

use super::effects::{HostEffects, Sight};
use super::{dirs, elements};
use crate::observe::Pids;

/// The keys of one kind that are there, or why that cannot be seen.
type Present = Result<HashSet<String>, (ErrorCode, String)>;

impl HostEffects<'_> {
    /// What is still there of each entry.
    pub(super) fn look_again(&self, entries: &[&Entry]) -> Vec<Sight> {
        let taps = self.taps(entries);
        let elements = self.elements(entries);
        let is_process = |e: &&&Entry| matches!(e.kind, Kind::Process | Kind::Monitor);
        let processes: Vec<&Entry> = entries.iter().filter(is_process).copied().collect();
        let mut meant = self.processes_of(&processes).into_iter();
        let pids = Pids::for_records(self.vm, processes.len());
        entries
            .iter()
            .map(|entry| match entry.kind {
                Kind::Process | Kind::Monitor => meant.next().map_or(Sight::Gone, |meant| self.process_still_there(entry, &meant, &pids)),
                Kind::NftElements => sight(&elements, entry, "nft element"),
                Kind::Tap => sight(&taps, entry, "network device"),
                Kind::RunDir | Kind::StateDir => dirs::still_there(self.vm, entry).map_or(Sight::Gone, Sight::There),
                Kind::Address | Kind::Mac | Kind::Uid => Sight::Gone,
            })
            .collect()
    }

    fn taps(&self, entries: &[&Entry]) -> Present {
        if entries.iter().all(|e| e.kind != Kind::Tap) {
            return Ok(HashSet::new());
        }
        let links = tap::find_marked(&self.vm.install).map_err(|e| (ErrorCode::Internal, e.to_string()))?;
        Ok(links.into_iter().map(|l| l.name.to_string()).collect())
    }

    fn elements(&self, entries: &[&Entry]) -> Present {
        let touched = |e: &&Entry| e.kind == Kind::NftElements && e.status != Status::Reserved;
        if !entries.iter().any(touched) {
            return Ok(HashSet::new());
        }
        let present = nft::elements(&self.vm.install).map_err(|e| (elements::code(&e), e.to_string()))?.unwrap_or_default();
        Ok(present.into_iter().map(|e| e.key).filter(|k| matches!(k, ElementKey::Source { .. })).map(|k| k.to_string()).collect())
    }
}

fn sight(present: &Present, entry: &Entry, what: &str) -> Sight {
    match present {
        Ok(keys) if keys.contains(&entry.key) => Sight::There(format!("{what} {}", entry.key)),
        Ok(_) => Sight::Gone,
        // A name that was only ever reserved has nothing behind it that could be there.
        Err(_) if entry.status == Status::Reserved => Sight::Gone,
        Err((code, message)) => Sight::Unseen { code: *code, message: message.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_fails_proves_nothing_but_of_mere_names() {
        let entry = |status| Entry { sandbox: "a".parse().unwrap(), kind: Kind::Tap, key: "t".to_owned(), status, identity: None };
        let dark: Present = Err((ErrorCode::Internal, "dark".to_owned()));
        for (status, want) in [
            (Status::Reserved, Sight::Gone),
            (Status::Intended, Sight::Unseen { code: ErrorCode::Internal, message: "dark".to_owned() }),
            (Status::Held, Sight::Unseen { code: ErrorCode::Internal, message: "dark".to_owned() }),
        ] {
            assert_eq!(sight(&dark, &entry(status), "tap"), want, "{status:?}");
        }
        assert_eq!(sight(&Ok(HashSet::from(["t".to_owned()])), &entry(Status::Held), "tap"), Sight::There("tap t".to_owned()));
    }
}
