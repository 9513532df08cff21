//! The random value that tells one start of a hypervisor from every other.

use std::fmt;
use std::str::FromStr;

/// A random (version 4) UUID in text form, one per start; it is the hypervisor's `-uuid`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaunchToken(String);

/// The text is not a launch token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a launch token is a UUID in lower case")]
pub struct LaunchTokenError;

impl LaunchToken {
    /// Shapes 16 random bytes from the caller as a version 4 UUID (RFC 9562).
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let hex = super::hex::encode(&bytes);
        Self(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LaunchToken {
    type Err = LaunchTokenError;

    fn from_str(text: &str) -> Result<Self, LaunchTokenError> {
        let ok = text.len() == 36
            && text.bytes().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
            });
        if ok { Ok(Self(text.to_owned())) } else { Err(LaunchTokenError) }
    }
}

impl fmt::Display for LaunchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_round_trip() {
        let token = LaunchToken::from_random([0xff; 16]);
        assert_eq!(token.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(token.as_str().parse::<LaunchToken>(), Ok(token.clone()));
        assert!("x".repeat(36).parse::<LaunchToken>().is_err());
    }
}
