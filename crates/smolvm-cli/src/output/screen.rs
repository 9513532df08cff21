//! The two streams, and what a terminal on them may be given.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use super::{Problem, harmless};
use crate::env;

/// Writes to stdout, one part after the other; a reader that went away has seen what it wanted.
pub(crate) fn to_stdout<'a>(parts: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut parts = parts.into_iter().filter(|part| !part.is_empty()).peekable();
    if parts.peek().is_none() {
        return Ok(());
    }
    match parts.try_for_each(|part| out.write_all(part.as_bytes())).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a question, or what belongs to it, to stderr.
pub(crate) fn ask_on_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Says something that is nice to know, to a person who is there to read it.
pub(crate) fn note(text: &str) {
    if io::stderr().is_terminal() {
        tell(text);
    }
}

/// Tells somebody who asked for it.
pub(crate) fn tell(text: &str) {
    ask_on_stderr(&format!("{}\n", harmless(text)));
}

/// Prints a problem the way people read it.
pub(super) fn complain(problem: &Problem) {
    let paint = Paint::of(&io::stderr());
    let mut text = format!("{} {}\n", paint.red("error:"), harmless(problem.message()));
    for cause in problem.causes() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {}", paint.dim("caused by:"), harmless(cause));
    }
    for line in problem.recovery().unwrap_or_default().lines() {
        let _ = writeln!(text, "{} {}", paint.green("hint:"), harmless(line));
    }
    // Nobody is left to be told when stderr is gone too.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Paint {
    /// The stream is a terminal that shows them.
    Colour,
    /// It is not, or nobody wants them.
    Plain,
}

impl Paint {
    /// What `stream` gets.
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        if stream.is_terminal() && !env::no_colour() { Self::Colour } else { Self::Plain }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Colour => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            Self::Plain => text.to_owned(),
        }
    }
}
