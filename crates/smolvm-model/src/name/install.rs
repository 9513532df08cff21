//! The id of one installation: one state directory of one user on one machine.

use std::fmt;
use std::str::FromStr;

/// Hex digits in an id: 40 bits, so that it fits beside a sandbox id in a mark and two
/// installations on one machine do not meet by chance.
pub(super) const LEN: usize = 10;

/// Ten lower-case hex digits, derived from machine id, uid and the state directory's canonical path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstallId(String);

/// The text is not an installation id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an installation id is {LEN} lower-case hex digits")]
pub struct InstallIdError;

impl InstallId {
    /// Takes the first 40 bits of a digest made by the caller.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(super::hex::encode(&digest[..LEN / 2]))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a number below 2^40, for deriving slots out of ranges.
    pub fn as_u64(&self) -> u64 {
        self.0.bytes().fold(0, |n, b| {
            let digit = if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
            (n << 4) | u64::from(digit)
        })
    }
}

impl FromStr for InstallId {
    type Err = InstallIdError;

    fn from_str(text: &str) -> Result<Self, InstallIdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == LEN && text.bytes().all(hex) { Ok(Self(text.to_owned())) } else { Err(InstallIdError) }
    }
}

impl fmt::Display for InstallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_number() {
        let id = InstallId::from_digest([0xab; 32]);
        assert_eq!(id.as_str(), "ababababab");
        assert_eq!(id.as_str().parse::<InstallId>(), Ok(id.clone()));
        assert_eq!(id.as_u64(), 0xab_abab_abab);
        for bad in ["", "ABABABABAB", "ababababa", "abababababa", "../../../."] {
            assert_eq!(bad.parse::<InstallId>(), Err(InstallIdError));
        }
    }
}
