//! Makes a sandbox of a copy, and takes it back if it does not come up.

use std::time::Duration;

use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::Spec;

use crate::create::Made;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::start::{Machine, Patience, StartPlan};

/// How long the removal of a copy that could not be started waits for its monitor.
pub(crate) const REMOVAL_WAIT: Duration = Duration::from_secs(20);

impl Smolvm {
    /// Makes one sandbox that goes on as a copy; one that does not is gone again. `plan` is that of its start, where there is one already.
    pub(crate) fn copy_of(
        &self,
        (name, ttl): (Option<&SandboxId>, Option<Span>),
        spec: &Spec,
        machine: Machine<'_>,
        plan: Option<StartPlan>,
        patience: Patience<'_>,
    ) -> Result<Made, Error> {
        let made = self.create_with(name, ttl.map(Span::duration), spec, Some(&machine.files.disk))?;
        match self.start_copy(&made, machine, plan, patience) {
            Ok(()) => Ok(made),
            Err(e) => Err(self.take_back(std::slice::from_ref(&made), e)),
        }
    }

    /// Deletes what was made before something failed, and says if that failed, too.
    pub(crate) fn take_back(&self, made: &[Made], cause: Error) -> Error {
        let left = made.iter().filter(|made| !self.delete_made_within(made, REMOVAL_WAIT).is_ok_and(|deletion| deletion.failed.is_empty()));
        let left: Vec<&str> = left.map(|made| made.id.as_str()).collect();
        if left.is_empty() { cause } else { cause.hint(format!("what was made could not be taken back: smolvm delete {}", left.join(" "))) }
    }
}
