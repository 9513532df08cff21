//! The one table of stable error codes.

use std::fmt;

/// What kind of failure a user meets; scripts match on [`ErrorCode::as_str`], which never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorCode {
    /// The command line is wrong.
    UsageError,
    /// No sandbox, image or command of that name.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The sandbox is not in a state that allows this.
    InvalidState,
    /// Refused on purpose; the message says what would allow it.
    Refused,
    /// The user lacks a right.
    PermissionDenied,
    /// A program, kernel feature or prepared file is missing.
    MissingDependency,
    /// Not possible on this machine or in this version.
    Unsupported,
    /// A deadline passed.
    Timeout,
    /// A file system did not answer in time, or a registry cannot be reached.
    Unreachable,
    /// The guest, or a command in it, failed.
    GuestError,
    /// Some of several parts failed; the rest was done.
    PartialFailure,
    /// Another live command holds what is needed.
    Busy,
    /// It changed between the question and the answer.
    Changed,
    /// Too little disk, memory or address space for what was asked.
    ResourceExhausted,
    /// The state database cannot be used as it is.
    StateCorrupt,
    /// Interrupted by a signal.
    Interrupted,
    /// A defect in smolvm, or a host call that failed in an unforeseen way.
    Internal,
}

impl ErrorCode {
    /// Every code, in the order of the documentation page.
    pub const ALL: [Self; 18] = [
        Self::UsageError,
        Self::NotFound,
        Self::AlreadyExists,
        Self::InvalidState,
        Self::Refused,
        Self::PermissionDenied,
        Self::MissingDependency,
        Self::Unsupported,
        Self::Timeout,
        Self::Unreachable,
        Self::GuestError,
        Self::PartialFailure,
        Self::Busy,
        Self::Changed,
        Self::ResourceExhausted,
        Self::StateCorrupt,
        Self::Interrupted,
        Self::Internal,
    ];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsageError => "usage_error",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::InvalidState => "invalid_state",
            Self::Refused => "refused",
            Self::PermissionDenied => "permission_denied",
            Self::MissingDependency => "missing_dependency",
            Self::Unsupported => "unsupported",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::GuestError => "guest_error",
            Self::PartialFailure => "partial_failure",
            Self::Busy => "busy",
            Self::Changed => "changed",
            Self::ResourceExhausted => "resource_exhausted",
            Self::StateCorrupt => "state_corrupt",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }

    /// The process exit status for a command that failed with this code and had no guest status.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::UsageError => 2,
            Self::Timeout => 124,
            Self::Interrupted => 130,
            Self::NotFound
            | Self::AlreadyExists
            | Self::InvalidState
            | Self::Refused
            | Self::PermissionDenied
            | Self::MissingDependency
            | Self::Unsupported
            | Self::Unreachable
            | Self::GuestError
            | Self::PartialFailure
            | Self::Busy
            | Self::Changed
            | Self::ResourceExhausted
            | Self::StateCorrupt
            | Self::Internal => 1,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_frozen() {
        let words: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(words.len(), ErrorCode::ALL.len());
        assert_eq!(ErrorCode::UsageError.exit_status(), 2);
        assert_eq!(ErrorCode::Timeout.exit_status(), 124);
    }
}
