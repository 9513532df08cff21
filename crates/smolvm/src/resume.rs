//! `resume`: lets a paused guest go on, with the right time.

use smolvm_model::effect::{Commit, Effect};
use smolvm_model::name::SandboxId;
use smolvm_model::state::{Request, State};
use smolvm_proto::MonitorRequest;

use crate::error::Error;
use crate::installation::Smolvm;
use crate::pause::Move;
use crate::view::SandboxView;

impl Smolvm {
    /// Lets a paused sandbox go on; one that runs is left alone.
    pub fn resume(&self, id: &SandboxId) -> Result<SandboxView, Error> {
        let wanted = Move {
            request: Request::Resume,
            effect: Effect::Resume,
            order: MonitorRequest::Resume,
            state: State::Running,
            commit: Commit::Resumed,
        };
        self.set_in_motion(id, &wanted)
    }
}
