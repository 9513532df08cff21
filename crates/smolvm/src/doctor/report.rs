//! How one check came out.

use serde::Serialize;
use smolvm_host::image;

/// Good, limited, or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// As it should be.
    Pass,
    /// Works, with a limit.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Stable, as in `state.database`.
    pub id: String,
    /// How it came out.
    pub status: CheckStatus,
    /// For a person, one line.
    pub summary: String,
    /// What was seen.
    pub evidence: String,
    /// The command that mends it, where there is one.
    pub fix: Option<String>,
}

/// How many checks came out how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// As they should be.
    pub pass: usize,
    /// With a limit.
    pub warn: usize,
    /// Broken.
    pub fail: usize,
}

impl CheckStatus {
    /// The word of the output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl CheckReport {
    pub(super) fn pass(id: &str, summary: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, CheckStatus::Pass, summary, evidence)
    }

    pub(super) fn warn(id: &str, summary: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, CheckStatus::Warn, summary, evidence)
    }

    pub(super) fn fail(id: &str, summary: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self::new(id, CheckStatus::Fail, summary, evidence)
    }

    fn new(id: &str, status: CheckStatus, summary: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { id: id.to_owned(), status, summary: summary.into(), evidence: evidence.into(), fix: None }
    }

    /// Says how to mend it.
    #[must_use]
    pub(crate) fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.fix = Some(command.into());
        self
    }
}

impl Tally {
    /// Counts.
    pub fn of(reports: &[CheckReport]) -> Self {
        let count = |status| reports.iter().filter(|report| report.status == status).count();
        Self { pass: count(CheckStatus::Pass), warn: count(CheckStatus::Warn), fail: count(CheckStatus::Fail) }
    }
}

impl From<image::Check> for CheckReport {
    fn from(check: image::Check) -> Self {
        let status = match check.status {
            image::CheckStatus::Pass => CheckStatus::Pass,
            image::CheckStatus::Warn => CheckStatus::Warn,
            image::CheckStatus::Fail => CheckStatus::Fail,
        };
        Self { id: check.id, status, summary: check.summary, evidence: check.evidence, fix: check.fix }
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

/// `1 sandbox`, `2 sandboxes`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
