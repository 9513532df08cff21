//! A failure as the edge tells it.

use std::error::Error as StdError;
use std::io;

use serde_json::Value;
use smolvm::error::Error;
use smolvm_model::error_code::ErrorCode;

/// What failed, why, what to do, and with which exit status.
#[derive(Debug)]
pub(crate) struct Problem {
    code: ErrorCode,
    message: String,
    causes: Vec<String>,
    recovery: Option<String>,
    details: Option<Value>,
    exit: u8,
    silent: bool,
}

impl Problem {
    /// With the exit status that goes with the code.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), recovery: None, details: None, exit: code.exit_status(), silent: false }
    }

    /// Adds the way out.
    #[must_use]
    pub(crate) fn hint(mut self, recovery: impl Into<String>) -> Self {
        self.recovery = Some(recovery.into());
        self
    }

    /// Adds what only scripts want to know.
    #[must_use]
    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// With another exit status than the code's own.
    #[must_use]
    pub(crate) fn exit_with(mut self, status: u8) -> Self {
        self.exit = status;
        self
    }

    /// Not told to people: the exit status says it all, or the guest command has told it.
    #[must_use]
    pub(crate) fn silently(mut self) -> Self {
        self.silent = true;
        self
    }

    /// Stdout did not take what was to be told.
    pub(crate) fn unwritable(e: &io::Error) -> Self {
        Self::new(ErrorCode::Internal, "the output could not be written").because(e)
    }

    /// Adds a cause and its causes.
    #[must_use]
    pub(crate) fn because(mut self, source: &dyn StdError) -> Self {
        let mut next = Some(source);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    pub(crate) fn exit(&self) -> u8 {
        self.exit
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn causes(&self) -> &[String] {
        &self.causes
    }

    pub(crate) fn recovery(&self) -> Option<&str> {
        self.recovery.as_deref()
    }

    pub(crate) fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }

    /// Message and causes, for readers with one field.
    pub(crate) fn one_line(&self) -> String {
        std::iter::once(&self.message).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        let mut problem = Self::new(e.code, e.message);
        problem.recovery = e.recovery;
        match e.source {
            Some(source) => problem.because(&*source),
            None => problem,
        }
    }
}

impl From<io::Error> for Problem {
    fn from(e: io::Error) -> Self {
        Self::new(ErrorCode::Internal, "a call to the host failed").because(&e)
    }
}
