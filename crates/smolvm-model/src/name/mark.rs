//! The text that says whose a host resource is.

use std::fmt;
use std::str::FromStr;

use super::{InstallId, SandboxId};

/// `smolvm:<install-id>:<sandbox-id>`: interface alias, nftables comment, owner file, one argv element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The installation that made the resource.
    pub install: InstallId,
    /// The sandbox it was made for.
    pub sandbox: SandboxId,
}

/// The text is not a mark, so what carries it is not ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an ownership mark")]
pub struct MarkError;

impl Mark {
    /// Joins valid parts.
    pub fn new(install: InstallId, sandbox: SandboxId) -> Self {
        Self { install, sandbox }
    }
}

impl FromStr for Mark {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, MarkError> {
        let rest = text.strip_prefix("smolvm:").ok_or(MarkError)?;
        let (install, sandbox) = rest.split_once(':').ok_or(MarkError)?;
        Ok(Self { install: install.parse().map_err(|_| MarkError)?, sandbox: sandbox.parse().map_err(|_| MarkError)? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "smolvm:{}:{}", self.install, self.sandbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_marks_parse() {
        let text = "smolvm:0123456789:vm-a";
        assert_eq!(text.parse::<Mark>().unwrap().to_string(), text);
        for bad in [
            "",
            "smolvm:",
            "smolvm:0123456789:",
            "smolvm:0123456789:../..",
            "smolvm:x:vm-a",
            " smolvm:0123456789:vm-a",
            "smolvm:0123456789:vm-a\n",
            "smolvm:0123456789:vm-a:b",
        ] {
            assert!(bad.parse::<Mark>().is_err(), "{bad:?}");
        }
    }
}
