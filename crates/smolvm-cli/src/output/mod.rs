//! How a command's result leaves the process.
//!
//! ```text
//!   Result<Reply, Problem> ──┬─ --json ──► envelope: one object on stdout
//!                            └─ people ──► text on stdout; error:, caused by:, hint: on stderr
//! ```
//!
//! Invariants: stdout carries data only; a reader that went away is not an error; text that a guest
//! or a file had a hand in cannot drive a terminal.

mod envelope;
mod harmless;
mod problem;
mod progress;
mod reply;
mod screen;
mod table;

pub(crate) use harmless::harmless;
pub(crate) use problem::Problem;
pub(crate) use progress::Progress;
pub(crate) use reply::{Format, Reply};
pub(crate) use screen::{Paint, ask_on_stderr, note, tell, to_stdout};
pub(crate) use table::{Columns, pairs};

use std::iter;

use crate::exit;

/// Prints the result of `command` and gives the exit status.
pub(crate) fn emit(command: &str, format: Format, result: Result<Reply, Problem>) -> u8 {
    let reply = result.unwrap_or_else(Reply::failed);
    let written = match format {
        Format::Json => {
            let (before, after) = envelope::around(command, &reply);
            let data = reply.data().iter().map(String::as_str);
            to_stdout(iter::once(before.as_str()).chain(data).chain([after.as_str()]))
        }
        Format::Text => {
            let written = to_stdout([reply.text()]);
            if let Some(problem) = reply.problem().filter(|problem| !problem.is_silent()) {
                screen::complain(problem);
            }
            written
        }
    };
    match written {
        Ok(()) => reply.exit(),
        Err(e) => {
            screen::complain(&Problem::unwritable(&e));
            // The work's own failure says more than that nobody could be told.
            if reply.exit() == exit::OK { exit::FAILURE } else { reply.exit() }
        }
    }
}
