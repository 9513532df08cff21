//! Sandbox ids and the prefixes that select them.

use std::fmt;
use std::str::FromStr;

/// Longest id in bytes: a DNS label (RFC 1123), because the id is the guest's hostname.
pub(super) const MAX_LEN: usize = 63;

/// A sandbox's name and identity: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SandboxId(String);

/// Why a text is not a sandbox id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxIdError {
    /// Nothing was given.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_LEN`] bytes.
    #[error("the name has {len} characters, and {MAX_LEN} is the most")]
    TooLong {
        /// Bytes that were given.
        len: usize,
    },
    /// A character outside the alphabet.
    #[error("{found:?} cannot stand in a name: only a-z, 0-9 and - can")]
    BadCharacter {
        /// The first one that does not fit.
        found: char,
    },
    /// A hyphen at either end.
    #[error("a name starts and ends with a letter or a digit")]
    HyphenAtEnd,
}

impl SandboxId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = SandboxIdError;

    fn from_str(text: &str) -> Result<Self, SandboxIdError> {
        if text.is_empty() {
            return Err(SandboxIdError::Empty);
        }
        if let Some(found) = text.chars().find(|c| !is_id_char(*c)) {
            return Err(SandboxIdError::BadCharacter { found });
        }
        if text.len() > MAX_LEN {
            return Err(SandboxIdError::TooLong { len: text.len() });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(SandboxIdError::HyphenAtEnd);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A non-empty start of ids, for `cleanup --prefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPrefix(String);

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdPrefixError {
    /// An empty prefix would select everything by accident.
    #[error("an empty prefix would match every sandbox")]
    Empty,
    /// No id can start like this.
    #[error("no sandbox can have this prefix: {0}")]
    NoSuchId(SandboxIdError),
}

impl IdPrefix {
    /// The prefix of automatically named sandboxes.
    pub const AUTO: &'static str = "vm-";

    /// Whether `id` starts with this prefix.
    pub fn matches(&self, id: &SandboxId) -> bool {
        id.as_str().starts_with(&self.0)
    }

    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for IdPrefix {
    fn default() -> Self {
        Self(Self::AUTO.to_owned())
    }
}

impl FromStr for IdPrefix {
    type Err = IdPrefixError;

    fn from_str(text: &str) -> Result<Self, IdPrefixError> {
        if text.is_empty() {
            return Err(IdPrefixError::Empty);
        }
        if let Some(found) = text.chars().find(|c| !is_id_char(*c)) {
            return Err(IdPrefixError::NoSuchId(SandboxIdError::BadCharacter { found }));
        }
        if text.len() > MAX_LEN {
            return Err(IdPrefixError::NoSuchId(SandboxIdError::TooLong { len: text.len() }));
        }
        if text.starts_with('-') {
            return Err(IdPrefixError::NoSuchId(SandboxIdError::HyphenAtEnd));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_id_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_published_pattern() {
        for good in ["a", "0", "vm-1", "a-b", &"x".repeat(63)] {
            assert_eq!(good.parse::<SandboxId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "../..", "/etc", "a\nb", "a b", "é", &"x".repeat(64), &"x".repeat(300)] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_empty_prefix_is_not_a_prefix() {
        assert_eq!("".parse::<IdPrefix>(), Err(IdPrefixError::Empty));
        assert!("vm-".parse::<IdPrefix>().unwrap().matches(&"vm-a".parse().unwrap()));
        assert!(!"vm-".parse::<IdPrefix>().unwrap().matches(&"v".parse().unwrap()));
        assert!("../".parse::<IdPrefix>().is_err());
    }
}
