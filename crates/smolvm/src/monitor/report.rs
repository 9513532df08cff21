//! What a monitor tells the command that started it: one JSON object a line.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use smolvm_model::error_code::ErrorCode;

use crate::error::Error;

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

impl Report {
    /// The failure that it tells of.
    pub(crate) fn error(&self) -> Error {
        match self {
            Self::Failed { code, message, recovery } => {
                let code = ErrorCode::ALL.into_iter().find(|c| c.as_str() == code).unwrap_or(ErrorCode::Internal);
                Error { recovery: recovery.clone(), ..Error::new(code, message.clone()) }
            }
            Self::Ready | Self::Parked => Error::new(ErrorCode::Internal, "the monitor tells of no failure"),
        }
    }
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

    /// Where the starter's word comes in, as long as it listens.
    pub(super) fn word(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
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
