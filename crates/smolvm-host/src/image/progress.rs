//! How long work tells what it is at.

/// One thing that long work is doing now.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Which part of the work: `kernel`, `initramfs`, `minimal`, `debian`, `packages`.
    pub step: &'static str,
    /// What of it, for a person.
    pub detail: String,
    /// How much of the part is done, from 0 to 1, where that can be told.
    pub fraction: Option<f32>,
}

/// Who is told; called from the thread that does the work.
pub type Report<'a> = &'a mut dyn FnMut(Progress);

/// Says that `step` is at `detail`, `fraction` of it done.
pub(super) fn tell(report: Report<'_>, step: &'static str, detail: impl Into<String>, fraction: f32) {
    report(Progress { step, detail: detail.into(), fraction: Some(fraction) });
}
