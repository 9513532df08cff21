//! Random bytes that travel as hex digits inside JSON.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Random bytes for the guest's generator: at most [`Entropy::MAX`], never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Entropy(Vec<u8>);

/// Why a text is not [`Entropy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// More than the cap.
    #[error("{len} bytes are over the cap of {}", Entropy::MAX)]
    TooLong {
        /// Bytes given.
        len: usize,
    },
    /// An odd count, or something that is no hex digit.
    #[error("not pairs of hex digits")]
    NotHex,
}

impl Entropy {
    /// Most bytes one message may carry.
    pub const MAX: usize = 512;

    /// Takes bytes that the caller drew from a random source.
    pub fn new(bytes: Vec<u8>) -> Result<Self, HexError> {
        if bytes.len() > Self::MAX { Err(HexError::TooLong { len: bytes.len() }) } else { Ok(Self(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn from_hex(text: &str) -> Result<Self, HexError> {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(HexError::NotHex);
        if text.len() / 2 > Self::MAX {
            return Err(HexError::TooLong { len: text.len() / 2 });
        }
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        if !odd.is_empty() {
            return Err(HexError::NotHex);
        }
        pairs.iter().map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?)).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entropy({} bytes)", self.0.len())
    }
}

impl Serialize for Entropy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let text: String = self.0.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Entropy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_hex(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_bad_text() {
        let entropy = Entropy::new(vec![0, 1, 0xab, 0xff]).unwrap();
        let text = serde_json::to_string(&entropy).unwrap();
        assert_eq!(text, "\"0001abff\"");
        assert_eq!(serde_json::from_str::<Entropy>(&text).unwrap(), entropy);
        assert_eq!(format!("{entropy:?}"), "Entropy(4 bytes)");
        for bad in ["\"0\"", "\"0g\"", "\"é\"", "5"] {
            assert!(serde_json::from_str::<Entropy>(bad).is_err(), "{bad}");
        }
        assert_eq!(Entropy::from_hex(&"00".repeat(513)), Err(HexError::TooLong { len: 513 }));
    }
}
