//! What the JSON payloads say.
//!
//! ```text
//!   stream 0  Control        HostMessage ─►        ◄─ AgentMessage
//!   stream n  Open           ExecRequest ─►
//!             StreamControl  StreamControl ─►
//!             Exit                                 ◄─ ExecExit
//! ```
//!
//! Invariants: every message carries its tag in `type`; readers ignore fields they do not know and
//! read message types they do not know as `Unknown`; optional fields have a default, so that an
//! older writer may leave them out. Nothing is ever renamed or given another meaning.

mod agent;
mod exec;
mod host;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use agent::{AgentMessage, Ready, StepTime};
pub use exec::{ExecError, ExecErrorKind, ExecExit, ExecRequest, ExecRequestError, MAX_ARGS, MAX_ENV, StreamControl};
pub use host::{BootConfig, HostMessage, InitConfig, NetworkConfig, UnixTime};

use crate::frame::MAX_PAYLOAD;

/// Why a value is no payload, or a payload no value.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// More than fits a frame.
    #[error("a message of {len} bytes is over the cap of {MAX_PAYLOAD}")]
    TooLarge {
        /// Bytes of the message.
        len: usize,
    },
    /// Not JSON, or not the message that belongs here.
    #[error("not a message of this protocol")]
    Malformed(#[source] serde_json::Error),
}

/// The payload that carries `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let payload = serde_json::to_vec(message).map_err(MessageError::Malformed)?;
    if payload.len() > MAX_PAYLOAD { Err(MessageError::TooLarge { len: payload.len() }) } else { Ok(payload) }
}

/// The message in a payload.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, MessageError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(MessageError::TooLarge { len: payload.len() });
    }
    serde_json::from_slice(payload).map_err(MessageError::Malformed)
}
