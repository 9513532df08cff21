//! What a machine that runs has around it, and a copy of it must have, too.

use smolvm_host::image::template::{DiskState, Facts};
use smolvm_host::store::SandboxRecord;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::error_code::ErrorCode;

use crate::error::Error;
use crate::installation::Smolvm;

impl Smolvm {
    /// What the machine was started with, as far as a copy must be, too.
    pub(crate) fn facts_of(&self, record: &SandboxRecord) -> Result<Facts, Error> {
        let facts = self.facts(&record.spec, Some(accelerator_of(record)), DiskState::Used)?;
        // Hypervisor and smolvm may have been upgraded since it was started.
        let ran = record.run.as_ref().map(|run| run.surroundings.clone()).unwrap_or_default();
        let of = |then: String, now: String| if then.is_empty() { now } else { then };
        Ok(Facts { hypervisor: of(ran.hypervisor, facts.hypervisor.clone()), machine: of(ran.machine, facts.machine.clone()), ..facts })
    }

    /// A copy goes on under the hypervisor that is installed; the source may have been started under another.
    pub(crate) fn refuse_another_hypervisor(&self, record: &SandboxRecord) -> Result<(), Error> {
        let now = self.facts(&record.spec, Some(accelerator_of(record)), DiskState::Used)?;
        let then = self.facts_of(record)?;
        if (&then.hypervisor, &then.machine) == (&now.hypervisor, &now.machine) {
            return Ok(());
        }
        let id = &record.id;
        Err(Error::new(ErrorCode::Unsupported, format!("\"{id}\" was started by another hypervisor or smolvm than its copies would be"))
            .hint(format!("start it again first: smolvm stop {id} && smolvm start {id}")))
    }
}

/// What runs it now: its copies can go on with nothing else.
pub(crate) fn accelerator_of(record: &SandboxRecord) -> AcceleratorRequest {
    record.run.as_ref().and_then(|run| run.accelerator.parse().ok()).unwrap_or(record.spec.accelerator)
}
