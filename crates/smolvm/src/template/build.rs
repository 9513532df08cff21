//! Makes templates, for a start that finds none and for `template build`.

use std::collections::BTreeMap;
use std::time::Duration;

use smolvm_host::fsx::copy_sparse;
use smolvm_host::image::template::{self, DiskState, Draft, Opened, Template};
use smolvm_host::lock::LockError;
use smolvm_host::{image, random};
use smolvm_model::error_code::ErrorCode;
use smolvm_model::spec::Spec;

use super::TemplateView;
use crate::auto_name;
use crate::create::CreateRequest;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::start::{DEADLINE, Patience, StartFrom, StartPlan};

/// A maker that was killed leaves a sandbox that `cleanup` takes after this time, whatever it is told to take.
const LIFETIME: Duration = Duration::from_mins(10);
/// How long the removal waits for a monitor that is just ending.
const REMOVAL_WAIT: Duration = Duration::from_secs(20);

/// What `template build` did.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The template.
    pub template: TemplateView,
    /// Whether it was made just now.
    pub made: bool,
}

impl Smolvm {
    /// Makes the template that sandboxes of this request would be forked from, unless it is there.
    pub fn build_template(&self, request: &CreateRequest) -> Result<Built, Error> {
        let spec = self.spec_for(request)?;
        let plan = self.plan_start(&spec, None, DiskState::Fresh)?;
        let found = template::find(&self.paths().cache, &plan.facts.key()).map_err(unusable)?;
        let made = found.is_none();
        let template = match found {
            Some(template) => template,
            None => self.make_template(&spec, &plan, Patience::new(DEADLINE, None))?,
        };
        Ok(Built { template: TemplateView::of(template, &self.boot_id), made })
    }

    /// Decides where a guest comes from; only who is told to stop gets no answer.
    ///
    /// Half of the time is kept for booting: whatever is wrong with a template, the start goes on without.
    pub(crate) fn choose_origin(&self, plan: StartPlan, spec: &Spec, from: StartFrom, patience: Patience<'_>) -> Result<StartPlan, Error> {
        match from {
            StartFrom::Boot => Ok(plan.boots("asked for".to_owned())),
            StartFrom::Template => match self.template_for(spec, &plan, patience.half()) {
                Ok(template) => Ok(plan.forks(template)),
                Err(e) if e.code == ErrorCode::Interrupted => Err(e),
                Err(e) => Ok(plan.boots(format!("no template could be made: {}", e.one_line()))),
            },
        }
    }

    fn template_for(&self, spec: &Spec, plan: &StartPlan, patience: Patience<'_>) -> Result<Opened, Error> {
        if let Some(template) = template::find(&self.paths().cache, &plan.facts.key()).map_err(unusable)?
            // One that is being removed at this moment is none.
            && let Ok(opened) = template.open()
        {
            template.touch();
            return Ok(opened);
        }
        self.make_template(spec, plan, patience)?.open().map_err(unusable)
    }

    fn make_template(&self, spec: &Spec, plan: &StartPlan, patience: Patience<'_>) -> Result<Template, Error> {
        let (cache, key) = (&self.paths().cache, plan.facts.key());
        let draft = Draft::new(cache, &key, plan.memory_mib, patience.left()).map_err(unusable)?;
        // Whoever had the lock before may have made it.
        if let Some(template) = template::find(cache, &key).map_err(unusable)? {
            return Ok(template);
        }
        let spec = Spec {
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            labels: BTreeMap::new(),
            accelerator: plan.request,
            init: None,
            restored_from: None,
            ..spec.clone()
        };
        self.park(&spec, &draft, plan.facts.disk, patience)?;
        draft.publish(cache, plan.facts.clone()).map_err(unusable)
    }

    /// Boots and parks a machine of that kind, in a sandbox that is gone afterwards.
    fn park(&self, spec: &Spec, draft: &Draft, disk: DiskState, patience: Patience<'_>) -> Result<(), Error> {
        let bytes = random::bytes().map_err(|e| Error::new(ErrorCode::Internal, "no random bytes").because(e))?;
        let name = auto_name::for_template(bytes).ok_or_else(|| Error::new(ErrorCode::Internal, "no name could be drawn"))?;
        let made = self.create_from(Some(&name), Some(LIFETIME), spec)?;
        let parked = self.start_parked(&made.id, draft, disk, patience).and_then(|()| match disk {
            // The machine has stopped: nothing is written to its disk any more.
            DiskState::Fresh => Ok(copy_sparse(&self.paths().disk(&made.id), &draft.disk(), spec.disk.bytes())?),
            DiskState::Used => Ok(()),
        });
        let deletion = self.delete_made_within(&made, REMOVAL_WAIT);
        parked?;
        match deletion?.failed.into_iter().next() {
            None => Ok(()),
            Some((_, e)) => Err(e),
        }
    }

    /// Forgets the template of a plan that could not be forked from it.
    pub(crate) fn discard_template(&self, plan: &StartPlan) {
        // Another start may be at it; then the next one finds out for itself.
        let _ = template::remove(&self.paths().cache, &plan.facts.key());
    }
}

pub(super) fn unusable(e: image::ImageError) -> Error {
    let code = match &e {
        image::ImageError::Lock(LockError::Busy { .. }) => ErrorCode::Busy,
        image::ImageError::Fs(e) if e.is_full() => ErrorCode::ResourceExhausted,
        _ => ErrorCode::Internal,
    };
    Error::new(code, "the template cannot be used").hint("smolvm template list; smolvm template delete KEY").because(e)
}
