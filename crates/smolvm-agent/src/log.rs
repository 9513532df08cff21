//! Diagnostics on the console. Rare: each byte on the serial line stops the machine.

use std::fmt::Display;
use std::io::Write;

/// Writes one line to descriptor 2; a console that is not there is no reason to fail.
pub(crate) fn line(text: impl Display) {
    let text = format!("smolvm-agent: {text}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
}
