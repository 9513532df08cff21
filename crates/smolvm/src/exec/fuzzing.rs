//! A command whose monitor says anything.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::{Exec, ExecIo, ExecOutcome};
use crate::error::Error;
use crate::session::Session;

/// What a caller sees of a command when the monitor says `words` and is gone: its streams, and how it ended.
pub fn hear(words: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>, Result<ExecOutcome, Error>)> {
    let (ours, mut monitor) = UnixStream::pair()?;
    monitor.write_all(words)?;
    // Only its half: what the client says in between has to go somewhere.
    monitor.shutdown(std::net::Shutdown::Write)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let io = ExecIo { stdin: None, stdout: &mut stdout, stderr: &mut stderr, signals: None };
    let ended = Exec::new(Session::over(ours), io, None).run(Vec::new());
    Ok((stdout, stderr, ended))
}
