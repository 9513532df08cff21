//! Wire format between smolvm's host side and its guest agent, and between clients and a monitor.
//!
//! ```text
//!   bytes ──► Resync ──► AttachRequest / AttachReply      once per attach, found in any garbage
//!   bytes ──► Decoder ─► Frame { kind, flags, stream, payload }
//!                          │ stream 0: Control = HostMessage / AgentMessage / MonitorRequest / MonitorReply
//!                          └ stream n: Open (ExecRequest) ─► Data, Eof, Credit, StreamControl ─► Exit or Reset
//!   SendWindow / ReceiveWindow: how many Data bytes a channel of a stream may have in flight
//! ```
//!
//! Invariants:
//! - Pure: bytes in, values out. No sockets, no clock, no randomness; the nonce comes from the caller.
//! - A length is checked against its cap before anything is allocated for it.
//! - Hostile bytes give an error, never a panic.
//! - Messages only grow: unknown fields and unknown message types are ignored by older readers, and
//!   `tests/golden/` freezes every shape that was ever shipped. `docs/protocol.md` has the rules.

pub mod attach;
pub mod frame;
mod hex;
pub mod message;
pub mod monitor;
pub mod resync;
pub mod window;

pub use attach::{AttachError, AttachReply, AttachRequest, Nonce};
pub use frame::{Channel, Decoder, Frame, FrameError, FrameKind, FrameRef, HEADER_LEN, MAX_PAYLOAD};
pub use hex::{Entropy, HexError};
pub use message::{
    AgentMessage, BootConfig, ExecError, ExecErrorKind, ExecExit, ExecRequest, ExecRequestError, HostMessage, InitConfig, MessageError,
    NetworkConfig, Ready, StepTime, StreamControl, UnixTime, decode, encode,
};
pub use monitor::{MonitorErrorCode, MonitorReply, MonitorRequest};
pub use resync::{ReplyScanner, RequestScanner};
pub use window::{INITIAL_WINDOW, MAX_WINDOW, ReceiveWindow, SendWindow, WindowError};

/// The newest generation of messages this build speaks.
pub const GENERATION: u16 = 1;

/// The oldest generation of messages this build still speaks.
pub const OLDEST_GENERATION: u16 = 1;

/// The name of the virtio-serial port that carries the link.
pub const PORT_NAME: &str = "smolvm.agent";
