//! Removes filter elements in one transaction.

use std::collections::HashMap;

use smolvm_host::effect::Permit;
use smolvm_host::net::nft::{self, NftError};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::{Entry, Status};
use smolvm_model::network::{ElementKey, ElementOwner};
use smolvm_model::teardown::Outcome;

use crate::installation::Smolvm;

pub(super) fn remove(permit: &Permit, vm: &Smolvm, entries: &[&Entry]) -> Vec<Outcome> {
    // Names that were only ever reserved have nothing behind them, and `nft` may not even be installed.
    if entries.iter().all(|e| e.status == Status::Reserved) {
        return vec![Outcome::AlreadyGone; entries.len()];
    }
    let present = match nft::elements(&vm.install) {
        Ok(elements) => elements.unwrap_or_default(),
        Err(e) => return vec![failed(&e); entries.len()],
    };
    let present: HashMap<&ElementKey, &ElementOwner> = present.iter().map(|element| (&element.key, &element.owner)).collect();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; entries.len()];
    let mut keys: Vec<ElementKey> = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let found = entry.key.parse::<ElementKey>().ok().and_then(|key| present.get_key_value(&key));
        match found {
            None => outcomes[i] = Some(Outcome::AlreadyGone),
            Some((key, owner)) if **owner == ElementOwner::Sandbox(vm.mark(&entry.sandbox)) => keys.push((*key).clone()),
            Some((_, owner)) => outcomes[i] = Some(Outcome::Refused { found_owner: format!("{owner:?}") }),
        }
    }
    let done = if keys.is_empty() { Ok(nft::Removal::Done) } else { nft::remove(permit, &vm.install, &keys) };
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| done.as_ref().map_or_else(failed, |_| Outcome::Released))).collect()
}

fn failed(e: &NftError) -> Outcome {
    Outcome::Failed { code: code(e), message: e.to_string() }
}

pub(super) fn code(e: &NftError) -> ErrorCode {
    match e {
        NftError::Missing => ErrorCode::MissingDependency,
        NftError::NoRights => ErrorCode::PermissionDenied,
        NftError::NoSuchObject { .. }
        | NftError::Exists { .. }
        | NftError::Refused { .. }
        | NftError::Tool(_)
        | NftError::Unreadable { .. } => ErrorCode::Internal,
    }
}
