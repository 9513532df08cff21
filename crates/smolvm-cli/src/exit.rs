//! Exit statuses: the one table.

use smolvm_model::error_code::ErrorCode;

/// Done, or declined at a prompt.
pub(crate) const OK: u8 = 0;
/// Failure, refusal or partial failure.
pub(crate) const FAILURE: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// smolvm failed before the guest command ran.
pub(crate) const NOT_RUN: u8 = 125;
/// The guest has the command and cannot execute it.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// The guest does not have the command.
pub(crate) const NOT_FOUND: u8 = 127;
/// Interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// The table of the reference.
#[cfg(test)]
pub(crate) const TABLE: [(&str, &str); 9] = [
    ("0", "success, or declined at a prompt"),
    ("1", "failure, refusal or partial failure"),
    ("2", "the command line is wrong"),
    ("124", "a time limit passed"),
    ("125", "`run`, `exec`: smolvm failed before the guest command ran"),
    ("126", "`run`, `exec`: the guest cannot execute the command"),
    ("127", "`run`, `exec`: the guest has no such command"),
    ("130", "interrupted"),
    ("any other", "`run`, `exec`: the guest command's own status; 128+N when signal N ended it"),
];

/// The status of a failed `exec` or `run` that has no guest status.
pub(crate) fn before_the_command(code: ErrorCode) -> u8 {
    match code.exit_status() {
        status @ (USAGE | INTERRUPTED) => status,
        _ => NOT_RUN,
    }
}

/// The status of a failed command that promises 0, 1, 2 and 130 only.
pub(crate) fn plain(code: ErrorCode) -> u8 {
    match code.exit_status() {
        status @ (USAGE | INTERRUPTED) => status,
        _ => FAILURE,
    }
}
