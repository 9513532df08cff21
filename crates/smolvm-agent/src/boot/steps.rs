//! How long each step took.

use smolvm_proto::StepTime;

/// A stopwatch that is read at each step's end.
pub(crate) struct Steps {
    taken: Vec<StepTime>,
    last: u64,
}

impl Steps {
    /// Starts with one step that is not ours: the kernel's, from its first clock tick to now.
    pub(super) fn start() -> Self {
        let mut steps = Self { taken: Vec::with_capacity(16), last: 0 };
        steps.done("kernel");
        steps
    }

    /// Ends a step.
    pub(super) fn done(&mut self, step: &str) {
        let now = crate::sys::clock::uptime_us();
        self.taken.push(StepTime { step: step.to_owned(), us: now - self.last });
        self.last = now;
    }

    /// All steps.
    pub(super) fn taken(&self) -> Vec<StepTime> {
        self.taken.clone()
    }
}
