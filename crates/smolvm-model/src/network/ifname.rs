//! Names of interfaces that are not ours, such as the uplink.

use std::fmt;
use std::str::FromStr;

/// An interface name that can stand in a rule, in a path beneath `/proc/sys/net` and in a message.
///
/// The kernel allows more (quotes, backslashes, control characters); such a name is refused rather
/// than escaped, and so are `all` and `default`, which are no interfaces in `/proc/sys/net/ipv4/conf`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName(String);

/// The text is not an interface name that smolvm works with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an interface name has 1 to 15 characters of a-z, A-Z, 0-9 and . _ - @ +, and is not a reserved word")]
pub struct IfNameError;

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = IfNameError;

    fn from_str(text: &str) -> Result<Self, IfNameError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-@+".contains(&b);
        let reserved = matches!(text, "." | ".." | "all" | "default");
        if (1..=15).contains(&text.len()) && text.bytes().all(fits) && !reserved { Ok(Self(text.to_owned())) } else { Err(IfNameError) }
    }
}

impl From<&crate::name::TapName> for IfName {
    fn from(tap: &crate::name::TapName) -> Self {
        Self(tap.as_str().to_owned())
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_a_path_or_a_quoted_word_is_no_name() {
        for good in ["eth0", "enp0s31f6", "br-12ab", "eth0.100", "wg_home", "lo"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "all", "default", "a/b", "a\"b", "svt*", "a b", "a\n", "a\\", "0123456789abcdef", "é"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }
}
