//! The attach handshake: how a host side takes over the line, whatever was on it before.
//!
//! ```text
//!   AttachRequest  magic (16) │ nonce (16) │ oldest (2) │ newest (2)                           36 bytes
//!   AttachReply    magic (16) │ nonce (16) │ chosen (2) │ oldest (2) │ newest (2) │ 0 (2)      40 bytes
//! ```
//!
//! Both are fixed for ever: they are what two builds of any age say to each other first. The magics
//! start with a byte that is no frame kind, so at a frame boundary a request is noticed at once.
//! Inside a half-sent frame it would be swallowed as payload; a host that does not know where the
//! line stands therefore sends [`AttachRequest::to_bytes_after_flush`]: the zeros end any frame
//! that was open, then are no valid header, and the agent scans for the magic that follows them.

use crate::frame::{HEADER_LEN, MAX_PAYLOAD};

/// First bytes of a request.
pub const REQUEST_MAGIC: [u8; 16] = *b"\xf5smolvm-attach\r\n";

/// First bytes of a reply.
pub const REPLY_MAGIC: [u8; 16] = *b"\xf6smolvm-attach\r\n";

/// Bytes of a request.
pub const REQUEST_LEN: usize = 36;

/// Bytes of a reply.
pub const REPLY_LEN: usize = 40;

/// Sixteen random bytes that tell one attach from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 16]);

/// The host side asks for the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachRequest {
    /// Drawn anew for each attach.
    pub nonce: Nonce,
    /// Oldest generation the host side speaks.
    pub oldest: u16,
    /// Newest generation the host side speaks.
    pub newest: u16,
}

/// The agent's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachReply {
    /// The nonce of the request.
    pub nonce: Nonce,
    /// The generation both will speak; 0 when there is none.
    pub chosen: u16,
    /// Oldest generation the agent speaks.
    pub oldest: u16,
    /// Newest generation the agent speaks.
    pub newest: u16,
}

/// The two sides have no generation in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side speaks protocol generations {oldest} to {newest}, and this one {} to {}",
    crate::OLDEST_GENERATION,
    crate::GENERATION
)]
pub struct AttachError {
    /// Oldest generation the other side speaks.
    pub oldest: u16,
    /// Newest generation the other side speaks.
    pub newest: u16,
}

impl AttachRequest {
    /// A request for what this build speaks.
    pub fn new(nonce: Nonce) -> Self {
        Self { nonce, oldest: crate::OLDEST_GENERATION, newest: crate::GENERATION }
    }

    /// For a line that is known to stand at a frame boundary: nothing was ever sent on it.
    pub fn to_bytes(self) -> [u8; REQUEST_LEN] {
        let mut bytes = [0; REQUEST_LEN];
        bytes[..16].copy_from_slice(&REQUEST_MAGIC);
        bytes[16..32].copy_from_slice(&self.nonce.0);
        bytes[32..34].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[34..].copy_from_slice(&self.newest.to_le_bytes());
        bytes
    }

    /// For a line that an earlier host side may have left in the middle of a frame.
    pub fn to_bytes_after_flush(self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN + MAX_PAYLOAD];
        bytes.extend_from_slice(&self.to_bytes());
        bytes
    }

    /// Reads a request that starts with [`REQUEST_MAGIC`].
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Option<Self> {
        let rest = bytes.strip_prefix(&REQUEST_MAGIC)?;
        let (nonce, rest) = rest.split_first_chunk::<16>()?;
        let ([oldest, newest], _) = rest.as_chunks::<2>() else { return None };
        Some(Self { nonce: Nonce(*nonce), oldest: u16::from_le_bytes(*oldest), newest: u16::from_le_bytes(*newest) })
    }

    /// The agent's answer: the newest generation both speak.
    pub fn answer(&self) -> AttachReply {
        let chosen = self.newest.min(crate::GENERATION);
        let common = chosen >= self.oldest.max(crate::OLDEST_GENERATION);
        AttachReply {
            nonce: self.nonce,
            chosen: if common { chosen } else { 0 },
            oldest: crate::OLDEST_GENERATION,
            newest: crate::GENERATION,
        }
    }
}

impl AttachReply {
    /// The reply's bytes.
    pub fn to_bytes(self) -> [u8; REPLY_LEN] {
        let mut bytes = [0; REPLY_LEN];
        bytes[..16].copy_from_slice(&REPLY_MAGIC);
        bytes[16..32].copy_from_slice(&self.nonce.0);
        bytes[32..34].copy_from_slice(&self.chosen.to_le_bytes());
        bytes[34..36].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[36..38].copy_from_slice(&self.newest.to_le_bytes());
        bytes
    }

    /// Reads a reply that starts with [`REPLY_MAGIC`].
    pub fn parse(bytes: &[u8; REPLY_LEN]) -> Option<Self> {
        let rest = bytes.strip_prefix(&REPLY_MAGIC)?;
        let (nonce, rest) = rest.split_first_chunk::<16>()?;
        let ([chosen, oldest, newest, _], _) = rest.as_chunks::<2>() else { return None };
        let number = |bytes: &[u8; 2]| u16::from_le_bytes(*bytes);
        Some(Self { nonce: Nonce(*nonce), chosen: number(chosen), oldest: number(oldest), newest: number(newest) })
    }

    /// The generation to speak, or what stands in the way.
    ///
    /// A chosen generation outside this build's range is a refusal too: the guest is not trusted.
    pub fn generation(&self) -> Result<u16, AttachError> {
        if (crate::OLDEST_GENERATION..=crate::GENERATION).contains(&self.chosen) {
            Ok(self.chosen)
        } else {
            Err(AttachError { oldest: self.oldest, newest: self.newest })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: Nonce = Nonce([9; 16]);

    #[test]
    fn round_trips() {
        let request = AttachRequest::new(NONCE);
        assert_eq!(AttachRequest::parse(&request.to_bytes()), Some(request));
        let reply = request.answer();
        assert_eq!(AttachReply::parse(&reply.to_bytes()), Some(reply));
        assert_eq!(reply.generation(), Ok(crate::GENERATION));
        assert_eq!(AttachRequest::parse(&[0; REQUEST_LEN]), None);
        assert_eq!(AttachReply::parse(&[0; REPLY_LEN]), None);
    }

    #[test]
    fn no_common_generation_is_a_refusal() {
        let newer = AttachRequest { nonce: NONCE, oldest: crate::GENERATION + 1, newest: crate::GENERATION + 5 };
        assert_eq!(newer.answer().chosen, 0);
        assert!(newer.answer().generation().is_err());
        let wider = AttachRequest { nonce: NONCE, oldest: 0, newest: u16::MAX };
        assert_eq!(wider.answer().chosen, crate::GENERATION);
        let upside_down = AttachRequest { nonce: NONCE, oldest: 5, newest: 1 };
        assert_eq!(upside_down.answer().chosen, 0);
    }
}
