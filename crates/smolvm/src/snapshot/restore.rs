//! `snapshot restore`: a sandbox that goes on where the snapshot was made.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use smolvm_host::image::snapshot::{Kind, Snapshot};
use smolvm_host::image::template::DiskState;
use smolvm_model::engine::AcceleratorRequest;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::quantity::Span;
use smolvm_model::spec::Spec;

use super::unusable;
use super::verdict::{accelerator_of, differences_from, no_such_machine};
use crate::error::Error;
use crate::installation::Smolvm;
use crate::start::{CopyOf, DEADLINE, Machine, Patience, StartOptions, StartPlan};
use crate::view::SandboxView;

/// What `snapshot restore` is asked for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The snapshot.
    pub snapshot: SandboxId,
    /// The sandbox's name; that of the one that was saved without one.
    pub name: Option<SandboxId>,
    /// What of it is used; all that there is without one.
    pub kind: Option<Kind>,
    /// Its time to live.
    pub ttl: Option<Span>,
    /// How long it may take until its agent answers.
    pub deadline: Duration,
}

impl RestoreRequest {
    /// All of it, under the name it had.
    pub fn of(snapshot: SandboxId) -> Self {
        Self { snapshot, name: None, kind: None, ttl: None, deadline: DEADLINE }
    }
}

impl Smolvm {
    /// Makes a sandbox of a snapshot and starts it; given up and taken back as soon as `signals` can be read.
    pub fn restore_snapshot(&self, request: &RestoreRequest, signals: Option<BorrowedFd<'_>>) -> Result<SandboxView, Error> {
        let snapshot = self.snapshot_named(&request.snapshot)?;
        let (name, files) = (request.name.as_ref().unwrap_or(&snapshot.origin.sandbox), snapshot.files());
        let spec = Spec { restored_from: Some(snapshot.name.clone()), ..snapshot.origin.spec.clone() };
        let kind = match (request.kind, snapshot.kind) {
            (Some(Kind::Machine), Kind::Disk) => {
                return Err(Error::new(ErrorCode::InvalidState, format!("the snapshot \"{}\" is of a disk alone", snapshot.name)));
            }
            (Some(kind), _) | (None, kind) => kind,
        };
        // Open for all that follows: who opens a log that nobody has open reads all of it.
        let _ledger = self.store_if_any()?;
        // Neither removed nor replaced by another until the copy has its files open.
        let _held = snapshot.hold().map_err(unusable)?;
        let made = match kind {
            Kind::Machine => {
                let plan = self.plan_that_fits(&snapshot, &spec)?;
                let patience = Patience::new(request.deadline, signals);
                let accelerator = accelerator_of(&snapshot);
                let machine = Machine { files: &files, of: CopyOf::Snapshot(&snapshot.name), accelerator, whole: None };
                self.copy_of((Some(name), request.ttl), &spec, machine, Some(plan), patience)?
            }
            Kind::Disk => {
                let made = self.create_with(Some(name), request.ttl.map(Span::duration), &spec, Some(&files.disk))?;
                // With what there is here: it boots.
                let accelerator = Some(AcceleratorRequest::Auto);
                let options = StartOptions { deadline: request.deadline, accelerator, ..StartOptions::default() };
                if let Err(e) = self.start_unless(&made.id, options, signals) {
                    return Err(self.take_back(std::slice::from_ref(&made), e));
                }
                made
            }
        };
        Ok(self.inspect(&made.id)?.sandbox)
    }

    /// The start of a machine in which the snapshot's memory can go on.
    fn plan_that_fits(&self, snapshot: &Snapshot, spec: &Spec) -> Result<StartPlan, Error> {
        let differences = match self.plan_start(spec, Some(accelerator_of(snapshot)), DiskState::Used) {
            Ok(plan) => {
                let differences = differences_from(snapshot, &plan.facts);
                if differences.is_empty() {
                    return Ok(plan);
                }
                differences
            }
            Err(e) => no_such_machine(snapshot, e)?,
        };
        let name = &snapshot.name;
        let text: Vec<String> = differences.iter().map(|d| format!("{}: was {}, is {}", d.what, d.then, d.now)).collect();
        Err(Error::new(ErrorCode::Unsupported, format!("the snapshot \"{name}\" cannot go on here with its memory ({})", text.join("; ")))
            .hint(format!("its disk can: smolvm snapshot restore {name} --disk-only")))
    }
}
