//! Running a command: what opens a stream, steers it and ends it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{MessageError, encode};

/// Most arguments of one command.
pub const MAX_ARGS: usize = 4096;

/// Most environment variables of one command.
pub const MAX_ENV: usize = 4096;

/// The payload of `Open`. The whole must fit one frame: 64 KiB of JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Command and arguments; a command without a slash is looked for in the guest's `PATH`.
    pub argv: Vec<String>,
    /// Added to the default environment (`PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`), and stronger than it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; `/` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Whether a working directory that is not there is made, as root's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub make_cwd: bool,
    /// `name`, `uid`, `name:group` or `uid:gid`, looked up in the guest; root without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The process group is killed after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether stdin comes over the stream; otherwise it is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
}

/// Why a request cannot be sent or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ExecRequestError {
    /// No command.
    #[error("there is no command to run")]
    NoCommand,
    /// More than [`MAX_ARGS`].
    #[error("{count} arguments, and {MAX_ARGS} is the most")]
    TooManyArgs {
        /// Arguments given.
        count: usize,
    },
    /// More than [`MAX_ENV`].
    #[error("{count} environment variables, and {MAX_ENV} is the most")]
    TooManyVars {
        /// Variables given.
        count: usize,
    },
    /// A NUL byte, which no argument, variable or path can hold.
    #[error("{field} holds a NUL byte")]
    Nul {
        /// Which part of the request.
        field: &'static str,
    },
    /// A name that is empty or holds `=`.
    #[error("{name:?} cannot be the name of an environment variable")]
    BadVarName {
        /// The name given.
        name: String,
    },
    /// Too large for a frame.
    #[error("the command with its environment does not fit a request")]
    Encoding(#[from] MessageError),
}

/// The payload of `StreamControl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamControl {
    /// Sends a signal to the command's process group.
    Signal {
        /// The signal's number on Linux.
        signal: i32,
    },
    /// A type this build does not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// The payload of `Exit`: exactly one of `code`, `signal` and `error` is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecExit {
    /// The command's exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether the time limit ended it.
    #[serde(default)]
    pub timed_out: bool,
    /// Why it never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ExecError>,
}

/// Why a command never ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecError {
    /// The class, for programs.
    pub kind: ExecErrorKind,
    /// What the kernel said, for people.
    pub message: String,
}

/// The classes of failure before a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecErrorKind {
    /// No such command.
    NotFound,
    /// It is there, and the kernel does not run it.
    NotExecutable,
    /// The working directory cannot be entered.
    BadCwd,
    /// No such user or group.
    BadUser,
    /// The request breaks a rule of [`ExecRequest::validate`].
    BadRequest,
    /// The guest is out of something.
    #[serde(other)]
    SpawnFailed,
}

impl ExecRequest {
    /// Checks every rule but the size; the sender does it for a good error, the agent because it trusts nobody.
    pub fn validate(&self) -> Result<(), ExecRequestError> {
        if self.argv.is_empty() || self.argv[0].is_empty() {
            return Err(ExecRequestError::NoCommand);
        }
        if self.argv.len() > MAX_ARGS {
            return Err(ExecRequestError::TooManyArgs { count: self.argv.len() });
        }
        if self.env.len() > MAX_ENV {
            return Err(ExecRequestError::TooManyVars { count: self.env.len() });
        }
        if let Some(name) = self.env.keys().find(|n| n.is_empty() || n.contains('=')) {
            return Err(ExecRequestError::BadVarName { name: name.clone() });
        }
        let nul = |text: &String| text.contains('\0');
        let fields = [
            ("an argument", self.argv.iter().any(nul)),
            ("the environment", self.env.iter().any(|(k, v)| nul(k) || nul(v))),
            ("the working directory", self.cwd.iter().any(nul)),
            ("the user", self.user.iter().any(nul)),
        ];
        match fields.into_iter().find(|(_, bad)| *bad) {
            Some((field, _)) => Err(ExecRequestError::Nul { field }),
            None => Ok(()),
        }
    }

    /// The payload of the `Open` frame, if the request is valid and fits one.
    pub fn to_payload(&self) -> Result<Vec<u8>, ExecRequestError> {
        self.validate()?;
        Ok(encode(self)?)
    }
}

impl ExecExit {
    /// The exit of a command that never ran.
    pub fn failed(kind: ExecErrorKind, message: impl Into<String>) -> Self {
        Self { error: Some(ExecError { kind, message: message.into() }), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(argv: &[&str]) -> ExecRequest {
        ExecRequest { argv: argv.iter().map(ToString::to_string).collect(), ..ExecRequest::default() }
    }

    #[test]
    fn rules_of_a_request() {
        assert!(request(&["true"]).to_payload().is_ok());
        assert!(matches!(request(&[]).validate(), Err(ExecRequestError::NoCommand)));
        assert!(matches!(request(&[""]).validate(), Err(ExecRequestError::NoCommand)));
        assert!(matches!(request(&["a\0"]).validate(), Err(ExecRequestError::Nul { field: "an argument" })));
        let many = ExecRequest { argv: vec!["x".to_owned(); MAX_ARGS + 1], ..ExecRequest::default() };
        assert!(matches!(many.validate(), Err(ExecRequestError::TooManyArgs { count: 4097 })));
        let mut bad = request(&["a"]);
        bad.env.insert("A=B".to_owned(), String::new());
        assert!(matches!(bad.validate(), Err(ExecRequestError::BadVarName { .. })));
        let large = request(&["sh", "-c", &"x".repeat(70_000)]);
        assert!(matches!(large.to_payload(), Err(ExecRequestError::Encoding(MessageError::TooLarge { .. }))));
    }
}
