//! The JSON inside rows.

use smolvm_model::ledger::ProcessIdentity;
use smolvm_model::spec::Spec;

use super::{identity, record};

/// A specification, as a row holds it.
pub fn spec(json: &str) -> Result<Spec, String> {
    record::spec_from_json(json)
}

/// What would be written for it.
pub fn spec_text(spec: &Spec) -> String {
    record::spec_to_json(spec)
}

/// Who a process is, as a row holds it.
pub fn identity(json: &str) -> Result<ProcessIdentity, String> {
    identity::identity_from_json(json)
}

/// What would be written for it.
pub fn identity_text(identity: &ProcessIdentity) -> String {
    identity::identity_to_json(identity)
}
