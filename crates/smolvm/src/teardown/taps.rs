//! Removes TAPs as one group.

use smolvm_host::effect::Permit;
use smolvm_host::net::links::{self, Outcome as LinkOutcome};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::ledger::Entry;
use smolvm_model::name::{Mark, TapName};
use smolvm_model::teardown::Outcome;

use crate::installation::Smolvm;

pub(super) fn remove(permit: &Permit, vm: &Smolvm, entries: &[&Entry]) -> Vec<Outcome> {
    let named: Vec<Option<(TapName, Mark)>> = entries.iter().map(|e| e.key.parse().ok().map(|name| (name, vm.mark(&e.sandbox)))).collect();
    let targets: Vec<(TapName, Mark)> = named.iter().flatten().cloned().collect();
    let mut results = match links::delete_all(permit, &targets) {
        Ok(outcomes) => outcomes.into_iter(),
        Err(e) => return vec![Outcome::Failed { code: ErrorCode::Internal, message: e.to_string() }; entries.len()],
    };
    named
        .into_iter()
        .map(|name| match name {
            // A key that is no TAP name of ours names nothing of ours.
            None => Outcome::AlreadyGone,
            Some(_) => results.next().map_or(Outcome::AlreadyGone, translate),
        })
        .collect()
}

fn translate(outcome: LinkOutcome) -> Outcome {
    match outcome {
        LinkOutcome::Released => Outcome::Released,
        LinkOutcome::AlreadyGone => Outcome::AlreadyGone,
        LinkOutcome::Refused { found } => Outcome::Refused { found_owner: found.to_string() },
        LinkOutcome::Failed(e) => Outcome::Failed { code: ErrorCode::Internal, message: e.to_string() },
    }
}
