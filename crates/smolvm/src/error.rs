//! The one error of the library, and the one place where hints are born.
//!
//! Below this crate errors carry fields; here they get a stable code and, where one exists, the exact
//! command that leads out. The command line prints them; nothing below decides on wording.

use std::error::Error as StdError;
use std::fmt;

use smolvm_host::effect::Fault;
use smolvm_host::fsx::FsError;
use smolvm_host::lock::LockError;
use smolvm_host::proc::tool::ToolError;
use smolvm_host::store::StoreError;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_model::state::Refusal;

/// A failed operation: what kind, on what, why, and what to do next.
#[derive(Debug)]
pub struct Error {
    /// Stable code.
    pub code: ErrorCode,
    /// What failed and on what; a lower-case fragment that does not repeat its source.
    pub message: String,
    /// What to do next, with the exact command where there is one.
    pub recovery: Option<String>,
    /// The cause.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without cause or hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), recovery: None, source: None }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, recovery: impl Into<String>) -> Self {
        self.recovery = Some(recovery.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// Message and causes in one line, for reports that have one field.
    pub fn one_line(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(e) = cause {
            text.push_str(": ");
            text.push_str(&e.to_string());
            cause = e.source();
        }
        text
    }

    /// Puts the sandbox's id where the way out says `NAME`.
    #[must_use]
    pub(crate) fn about(mut self, id: &SandboxId) -> Self {
        self.recovery = self.recovery.map(|text| text.replace("NAME", id.as_str()));
        self
    }

    /// There is no sandbox of that id.
    pub fn no_such_sandbox(id: &SandboxId) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no sandbox \"{id}\"")).hint("see what there is with: smolvm list")
    }

    /// The state does not allow it.
    pub(crate) fn refused_by_state(id: &SandboxId, refusal: Refusal) -> Self {
        let (what, way) = match refusal {
            Refusal::NotRunning => ("is not running", format!("smolvm start {id}")),
            Refusal::Stale => {
                ("has lost its hypervisor", format!("smolvm start {id}   (boots it again on the same disk; smolvm delete {id} removes it)"))
            }
            Refusal::HalfCreated => ("was never finished", format!("smolvm delete {id}")),
            Refusal::HalfDeleted => ("is half deleted", format!("smolvm delete {id}")),
            Refusal::Paused => ("is paused", format!("smolvm resume {id}")),
            Refusal::Pooled => {
                ("waits in the pool for whoever starts one of its kind", format!("smolvm run …   takes it; smolvm delete {id} removes it"))
            }
            Refusal::InTransition => ("is between two states", format!("smolvm inspect {id}")),
        };
        Self::new(ErrorCode::InvalidState, format!("sandbox \"{id}\" {what}")).hint(way)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(e: StoreError) -> Self {
        let (code, hint) = match &e {
            StoreError::Open { .. } | StoreError::ReadOnly => {
                (ErrorCode::PermissionDenied, "the state directory must be writable for you; see: smolvm doctor".to_owned())
            }
            e if e.is_damage() => (
                ErrorCode::StateCorrupt,
                "smolvm doctor --fix   sets it aside; then smolvm cleanup --all   removes by their marks what it knew".to_owned(),
            ),
            StoreError::BrokenRow { .. } => {
                (ErrorCode::StateCorrupt, "smolvm doctor --fix   drops the row and touches nothing else".to_owned())
            }
            StoreError::Newer { .. } => (ErrorCode::Unsupported, "use the newer smolvm that made it".to_owned()),
            StoreError::Full => {
                (ErrorCode::ResourceExhausted, "free some space, then run it again; smolvm cleanup frees what sandboxes hold".to_owned())
            }
            StoreError::Busy => (ErrorCode::Busy, "try again in a moment".to_owned()),
            StoreError::NameTaken => (ErrorCode::AlreadyExists, "choose another name, or see: smolvm list".to_owned()),
            StoreError::KeyTaken { .. } | StoreError::Changed => (ErrorCode::Busy, "try again".to_owned()),
            StoreError::StillHeld | StoreError::Sql { .. } | StoreError::Corrupt { .. } => {
                (ErrorCode::Internal, "see: smolvm doctor".to_owned())
            }
        };
        Self::new(code, "the ledger could not be used").hint(hint).because(e)
    }
}

impl From<LockError> for Error {
    fn from(e: LockError) -> Self {
        match &e {
            LockError::Busy { .. } => {
                Self::new(ErrorCode::Busy, "another smolvm command is at work on it").hint("try again when it has ended")
            }
            LockError::Io { source, .. } => {
                let code = io_code(source);
                Self::new(code, "the sandbox could not be locked").because(e)
            }
        }
    }
}

impl From<FsError> for Error {
    fn from(e: FsError) -> Self {
        let code = io_code(&e.source);
        let error = Self::new(code, "the state directory could not be changed");
        let error = if code == ErrorCode::ResourceExhausted { error.hint("free some space, then run it again") } else { error };
        error.because(e)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::new(io_code(&fault.source), "a step failed as a test wanted").because(fault)
    }
}

impl From<ToolError> for Error {
    fn from(e: ToolError) -> Self {
        let code = match &e {
            ToolError::Missing { .. } => ErrorCode::MissingDependency,
            ToolError::TimedOut { .. } => ErrorCode::Timeout,
            ToolError::Spawn { .. } | ToolError::Wait { .. } | ToolError::Failed { .. } => ErrorCode::Internal,
        };
        let error = Self::new(code, "a program that smolvm uses did not do its work");
        let error = if code == ErrorCode::MissingDependency { error.hint("see what is missing with: smolvm doctor") } else { error };
        error.because(e)
    }
}

/// The code for a plain I/O failure.
pub(crate) fn io_code(e: &std::io::Error) -> ErrorCode {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::PermissionDenied | K::ReadOnlyFilesystem => ErrorCode::PermissionDenied,
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge | K::OutOfMemory => ErrorCode::ResourceExhausted,
        K::TimedOut => ErrorCode::Timeout,
        K::AddrInUse | K::ResourceBusy => ErrorCode::Busy,
        _ => ErrorCode::Internal,
    }
}
