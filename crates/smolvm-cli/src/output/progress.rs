//! Progress of anything that takes more than half a second, on a terminal only.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Format, harmless};
use crate::env;

/// Quick work shows nothing.
const PATIENCE: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_millis(200);

/// A line that tells what is going on and for how long; dropping it takes the line away.
#[derive(Debug)]
pub(crate) struct Progress {
    says: Option<Sender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Shows `what` once it has taken a while, if a person watches and wants to know.
    pub(crate) fn of(format: Format, quiet: bool, what: impl Into<String>) -> Self {
        if format == Format::Json || quiet || !std::io::stderr().is_terminal() || env::is_dumb() {
            return Self { says: None, thread: None };
        }
        let (says, hears) = channel::<String>();
        let mut what = what.into();
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            let mut shown = false;
            let mut pause = PATIENCE;
            loop {
                match hears.recv_timeout(pause) {
                    Ok(next) => what = next,
                    Err(RecvTimeoutError::Timeout) => pause = REFRESH,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if begin.elapsed() >= PATIENCE {
                    shown = true;
                    let line = format!("\r\u{1b}[K{} ({:.0} s)", harmless(&what), begin.elapsed().as_secs_f32());
                    let _ = std::io::stderr().lock().write_all(line.as_bytes());
                }
            }
            if shown {
                let _ = std::io::stderr().lock().write_all(b"\r\x1b[K");
            }
        });
        Self { says: Some(says), thread: Some(thread) }
    }

    /// Something else is going on now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        if let Some(says) = &self.says {
            let _ = says.send(what.into());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.says = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
