//! Frames: the unit on the wire.
//!
//! ```text
//!    0      1      2        4              8              12
//!   ┌──────┬───────┬────────┬──────────────┬──────────────┬─────────────
//!   │ kind │ flags │ 0 (16) │ stream (32)  │ length (32)  │ payload …
//!   └──────┴───────┴────────┴──────────────┴──────────────┴─────────────   integers little-endian
//! ```
//!
//! Invariants: `length` is at most [`MAX_PAYLOAD`]; `flags` is the [`Channel`] of `Data`, `Eof` and
//! `Credit` and 0 otherwise; stream 0 carries `Control` and nothing else does. A header that breaks
//! one of these is garbage, which is what lets a receiver notice that it lost the frame boundary.

mod decoder;

pub use decoder::Decoder;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 12;

/// Most payload bytes in one frame.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What a frame is for. The numbers are the wire's; 0 is never a kind, so a run of zeros is garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A JSON message on stream 0.
    Control = 1,
    /// A JSON request that opens the stream. Ids are chosen by the host side and never used twice in one attach.
    Open = 2,
    /// Bytes of the channel in `flags`.
    Data = 3,
    /// The sender will send no more `Data` on the channel in `flags`.
    Eof = 4,
    /// Four bytes: how many more `Data` bytes the other side may send on the channel in `flags`.
    Credit = 5,
    /// A JSON message about a running stream.
    StreamControl = 6,
    /// A JSON result; the stream is over.
    Exit = 7,
    /// The stream is aborted; no answer follows.
    Reset = 8,
}

/// Which byte stream within a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Host to guest.
    Stdin = 0,
    /// Guest to host.
    Stdout = 1,
    /// Guest to host.
    Stderr = 2,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not one of [`FrameKind`].
    #[error("frame kind {found} is not known")]
    UnknownKind {
        /// The first byte of the header.
        found: u8,
    },
    /// The two reserved bytes are not zero.
    #[error("reserved header bytes are not zero")]
    ReservedSet,
    /// The length is over [`MAX_PAYLOAD`].
    #[error("a frame of {len} bytes is over the cap of {MAX_PAYLOAD}")]
    TooLong {
        /// Bytes announced.
        len: u32,
    },
    /// `Control` outside stream 0, or something else in it.
    #[error("frame kind {kind:?} cannot be on stream {stream}")]
    WrongStream {
        /// The frame's kind.
        kind: FrameKind,
        /// The frame's stream.
        stream: u32,
    },
    /// `flags` does not fit the kind.
    #[error("flags {flags} do not fit frame kind {kind:?}")]
    BadFlags {
        /// The frame's kind.
        kind: FrameKind,
        /// The frame's flags.
        flags: u8,
    },
    /// The length does not fit the kind.
    #[error("a frame of kind {kind:?} cannot have {len} bytes")]
    BadLength {
        /// The frame's kind.
        kind: FrameKind,
        /// Bytes announced.
        len: u32,
    },
}

/// A frame that owns its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// The channel of `Data`, `Eof` and `Credit`; 0 otherwise.
    pub flags: u8,
    /// The stream it belongs to.
    pub stream: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// A frame whose payload lies in somebody else's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// What it is for.
    pub kind: FrameKind,
    /// The channel of `Data`, `Eof` and `Credit`; 0 otherwise.
    pub flags: u8,
    /// The stream it belongs to.
    pub stream: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: FrameKind,
    /// The channel of `Data`, `Eof` and `Credit`; 0 otherwise.
    pub flags: u8,
    /// The stream it belongs to.
    pub stream: u32,
    /// Payload bytes that follow, at most [`MAX_PAYLOAD`].
    pub len: u32,
}

impl FrameKind {
    fn from_wire(found: u8) -> Result<Self, FrameError> {
        Ok(match found {
            1 => Self::Control,
            2 => Self::Open,
            3 => Self::Data,
            4 => Self::Eof,
            5 => Self::Credit,
            6 => Self::StreamControl,
            7 => Self::Exit,
            8 => Self::Reset,
            _ => return Err(FrameError::UnknownKind { found }),
        })
    }

    fn has_channel(self) -> bool {
        matches!(self, Self::Data | Self::Eof | Self::Credit)
    }
}

impl Channel {
    /// The channel a frame's `flags` name.
    pub fn from_flags(flags: u8) -> Option<Self> {
        match flags {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }

    /// The `flags` byte that names this channel.
    pub fn flags(self) -> u8 {
        self as u8
    }
}

impl Header {
    /// Checks the twelve bytes before a payload.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [kind, flags, r0, r1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        let kind = FrameKind::from_wire(kind)?;
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if r0 != 0 || r1 != 0 {
            return Err(FrameError::ReservedSet);
        }
        if len as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong { len });
        }
        if (kind == FrameKind::Control) != (stream == 0) {
            return Err(FrameError::WrongStream { kind, stream });
        }
        if if kind.has_channel() { Channel::from_flags(flags).is_none() } else { flags != 0 } {
            return Err(FrameError::BadFlags { kind, flags });
        }
        let fits = match kind {
            FrameKind::Eof | FrameKind::Reset => len == 0,
            FrameKind::Credit => len == 4,
            FrameKind::Control | FrameKind::Open | FrameKind::Data | FrameKind::StreamControl | FrameKind::Exit => true,
        };
        if fits { Ok(Self { kind, flags, stream, len }) } else { Err(FrameError::BadLength { kind, len }) }
    }

    /// The twelve bytes before a payload.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [s0, s1, s2, s3] = self.stream.to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        [self.kind as u8, self.flags, 0, 0, s0, s1, s2, s3, l0, l1, l2, l3]
    }
}

impl Frame {
    /// A message on stream 0; `payload` comes from [`crate::encode`], which keeps it under the cap.
    pub fn control(payload: Vec<u8>) -> Self {
        Self { kind: FrameKind::Control, flags: 0, stream: 0, payload }
    }

    /// A frame of `kind` without a channel on `stream`.
    pub fn on_stream(kind: FrameKind, stream: u32, payload: Vec<u8>) -> Self {
        Self { kind, flags: 0, stream, payload }
    }

    /// Bytes of a channel. The caller keeps to the window and to [`MAX_PAYLOAD`].
    pub fn data(stream: u32, channel: Channel, payload: Vec<u8>) -> Self {
        Self { kind: FrameKind::Data, flags: channel.flags(), stream, payload }
    }

    /// The end of a channel.
    pub fn eof(stream: u32, channel: Channel) -> Self {
        Self { kind: FrameKind::Eof, flags: channel.flags(), stream, payload: Vec::new() }
    }

    /// Leave to send `bytes` more on a channel.
    pub fn credit(stream: u32, channel: Channel, bytes: u32) -> Self {
        Self { kind: FrameKind::Credit, flags: channel.flags(), stream, payload: bytes.to_le_bytes().to_vec() }
    }

    /// The abrupt end of a stream.
    pub fn reset(stream: u32) -> Self {
        Self { kind: FrameKind::Reset, flags: 0, stream, payload: Vec::new() }
    }

    /// The same frame, borrowed.
    pub fn as_ref(&self) -> FrameRef<'_> {
        FrameRef { kind: self.kind, flags: self.flags, stream: self.stream, payload: &self.payload }
    }

    /// Appends the frame's bytes. See [`FrameRef::encode_into`].
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.as_ref().encode_into(out);
    }
}

impl FrameRef<'_> {
    /// The header that announces this payload.
    ///
    /// A payload over [`MAX_PAYLOAD`] is a bug of the caller: debug builds stop, and the receiver
    /// refuses the frame.
    pub fn header(&self) -> Header {
        debug_assert!(self.payload.len() <= MAX_PAYLOAD, "payload over the cap");
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        Header { kind: self.kind, flags: self.flags, stream: self.stream, len }
    }

    /// Appends header and payload.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(HEADER_LEN + self.payload.len());
        out.extend_from_slice(&self.header().to_bytes());
        out.extend_from_slice(self.payload);
    }

    /// The channel of a `Data`, `Eof` or `Credit` frame.
    pub fn channel(&self) -> Option<Channel> {
        if self.kind.has_channel() { Channel::from_flags(self.flags) } else { None }
    }

    /// The bytes granted by a `Credit` frame.
    pub fn granted(&self) -> Option<u32> {
        match (self.kind, <[u8; 4]>::try_from(self.payload)) {
            (FrameKind::Credit, Ok(bytes)) => Some(u32::from_le_bytes(bytes)),
            _ => None,
        }
    }

    /// A copy that owns its payload.
    pub fn to_owned(&self) -> Frame {
        Frame { kind: self.kind, flags: self.flags, stream: self.stream, payload: self.payload.to_vec() }
    }
}

#[cfg(test)]
mod tests;
