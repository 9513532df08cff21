//! What a monitor tells the command that started it: one JSON object a line.

use std::io::Write;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// The agent answered; the row says `running`.
    Ready,
    /// The guest is parked and its state written; the monitor ends.
    Parked,
    /// The start failed; the monitor ends.
    Failed {
        /// Stable code.
        code: String,
        /// What happened.
        message: String,
        /// What to do next.
        recovery: Option<String>,
    },
}

/// The pipe to the starter; its loss is not the monitor's business.
#[derive(Debug)]
pub(super) struct Reporter {
    pipe: Option<std::fs::File>,
}

impl Reporter {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe.into()) }
    }

    /// Sends the last word and closes the pipe.
    pub(super) fn finish(&mut self, report: &Report) {
        if let (Some(mut pipe), Ok(mut line)) = (self.pipe.take(), serde_json::to_vec(report)) {
            line.push(b'\n');
            // The starter may be gone: killed, or its deadline passed.
            let _ = pipe.write_all(&line);
        }
    }
}
