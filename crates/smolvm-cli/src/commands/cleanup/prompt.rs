//! The question before anything is deleted.

use std::io;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use smolvm::cleanup::CleanupPlan;

use super::{repeat_targets, text};
use crate::output::ask_on_stderr;
use crate::signals::SignalPipe;

/// Nobody types more than this to say yes.
const LONGEST: usize = 1024;

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Go on.
    Yes,
    /// Anything else, also the end of input.
    No,
    /// Ctrl-C.
    Interrupted,
}

/// Asks on the terminal.
pub(super) fn ask(plan: &CleanupPlan, signals: &SignalPipe) -> io::Result<Answer> {
    repeat_targets(plan);
    ask_on_stderr(&format!("Remove {}? This cannot be undone. [y/N] ", text::what(plan)));
    let answer = read(signals)?;
    if answer == Answer::Interrupted {
        ask_on_stderr("\n");
    }
    Ok(answer)
}

fn read(signals: &SignalPipe) -> io::Result<Answer> {
    let stdin = io::stdin();
    let mut line = Vec::new();
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::from_borrowed_fd(signals.fd(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(Answer::Interrupted);
        }
        let mut chunk = [0; 256];
        match rustix::io::read(&stdin, &mut chunk[..]) {
            Ok(0) => return Ok(ended()),
            Ok(count) => line.extend_from_slice(&chunk[..count]),
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // The terminal is gone.
            Err(_) => return Ok(ended()),
        }
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            return Ok(meaning(&line[..end]));
        }
        if line.len() > LONGEST {
            return Ok(Answer::No);
        }
    }
}

/// The end of input is no line: what follows begins on one of its own.
fn ended() -> Answer {
    ask_on_stderr("\n");
    Answer::No
}

fn meaning(line: &[u8]) -> Answer {
    let word = line.trim_ascii().to_ascii_lowercase();
    if word == b"y" || word == b"yes" { Answer::Yes } else { Answer::No }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y", "Y", "yes", "YES", "yEs", " y \r"] {
            assert_eq!(meaning(yes.as_bytes()), Answer::Yes, "{yes:?}");
        }
        for no in ["", "n", "no", "ye", "yess", "y y", "ja", "1", "\u{7f}y"] {
            assert_eq!(meaning(no.as_bytes()), Answer::No, "{no:?}");
        }
    }
}
