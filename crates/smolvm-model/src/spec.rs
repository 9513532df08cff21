//! What a sandbox shall be: everything `create` was told, with the defaults filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::engine::AcceleratorRequest;
use crate::name::SandboxId;
use crate::quantity::{Cpus, DiskSize, Memory};
use crate::reference::{Reference, ReferenceError, Registry};
use crate::signal::Signal;

/// Most environment variables, and most labels, of one sandbox.
pub const MAX_PAIRS: usize = 256;
/// Longest value of a variable or a label in bytes.
const MAX_VALUE: usize = 32 << 10;

/// A sandbox as it was asked for; never changes after `create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The image's name.
    pub image: ImageName,
    /// The image's content digest at creation: `start` uses this very image.
    pub image_digest: String,
    /// Virtual processors.
    pub cpus: Cpus,
    /// Guest memory.
    pub memory: Memory,
    /// Size of the data disk.
    pub disk: DiskSize,
    /// How it reaches the network.
    pub network: NetworkMode,
    /// Variables for every command in it.
    pub env: BTreeMap<VarName, String>,
    /// Where its commands run unless they say: what its image says.
    pub workdir: Option<String>,
    /// As whom its commands run unless they say: what its image says.
    pub user: Option<String>,
    /// The user's own marks.
    pub labels: BTreeMap<LabelKey, String>,
    /// Which accelerator was asked for.
    pub accelerator: AcceleratorRequest,
    /// The image's own init, if it is booted.
    pub init: Option<GuestInit>,
    /// The snapshot or the sandbox that it began as a copy of: what is on its disk is not nothing, also before its first start.
    pub restored_from: Option<SandboxId>,
}

/// The image's own init, started beside the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestInit {
    /// What asks it to power off, if the image says so.
    pub stop_signal: Option<Signal>,
}

/// How a sandbox reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkMode {
    /// Its own TAP, routed and filtered by the host; needs network rights.
    Tap,
    /// Through a helper process of the user's; needs no rights.
    User,
    /// No network device at all.
    None,
}

impl NetworkMode {
    /// The word users type and read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::User => "user",
            Self::None => "none",
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text does not fit into a specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither the name of an image that is here nor one of a registry.
    #[error("{text:?} is not the name of an image: {why}")]
    ImageName {
        /// What was said.
        text: String,
        /// Why no registry has it.
        why: ReferenceError,
    },
    /// Not the name of an environment variable.
    #[error("{0:?} is not a variable name: letters, digits and _, not a digit first")]
    VarName(String),
    /// Not a label key.
    #[error("{0:?} is not a label key: letters, digits, '.', '_', '/' and '-', at most 63 characters")]
    LabelKey(String),
    /// `KEY=VALUE` was expected.
    #[error("{0:?} has no '=': write KEY=VALUE")]
    NoEquals(String),
    /// A value with a NUL byte, or too long.
    #[error("the value of {key} cannot be kept: at most 32 KiB, and no NUL")]
    Value {
        /// The key whose value it is.
        key: String,
    },
    /// Not a network mode.
    #[error("{0:?} is not a network mode: tap, user or none")]
    NetworkMode(String),
    /// More pairs than anyone needs.
    #[error("too many of them: at most {MAX_PAIRS}")]
    TooMany,
}

impl FromStr for NetworkMode {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text {
            "tap" => Ok(Self::Tap),
            "user" => Ok(Self::User),
            "none" => Ok(Self::None),
            _ => Err(SpecError::NetworkMode(shorten(text))),
        }
    }
}

/// What an image is called: a name of this host's own, such as `debian`, or one of a registry, which is kept complete.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

/// The name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VarName(String);

/// The key of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelKey(String);

macro_rules! checked_text {
    ($name:ident, $max:literal, $first:expr, $rest:expr, $error:expr) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = SpecError;

            fn from_str(text: &str) -> Result<Self, SpecError> {
                let (first, rest): (fn(u8) -> bool, fn(u8) -> bool) = ($first, $rest);
                let ok = text.len() <= $max && text.bytes().next().is_some_and(first) && text.bytes().all(rest);
                if ok { Ok(Self(text.to_owned())) } else { Err($error(shorten(text))) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(VarName, 255, |b| b.is_ascii_alphabetic() || b == b'_', |b| b.is_ascii_alphanumeric() || b == b'_', SpecError::VarName);
checked_text!(
    LabelKey,
    63,
    |b| b.is_ascii_alphanumeric(),
    |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-'),
    SpecError::LabelKey
);

impl FromStr for ImageName {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        // Short enough and plain: it may be of this host, and of a registry if it is not.
        if first && text.len() <= 64 && text.bytes().all(inner) {
            return Ok(Self(text.to_owned()));
        }
        match Reference::parse(text, &Registry::default()) {
            Ok(reference) if Reference::names_registry(text) => Ok(Self(reference.to_string())),
            // Which registry it means is settled elsewhere; until then it stays what somebody wrote.
            Ok(_) => Ok(Self(text.to_owned())),
            Err(why) => Err(SpecError::ImageName { text: shorten(text), why }),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImageName {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a registry calls it, `default` where it names none; a name of this host's own may be one of no registry.
    pub fn reference(&self, default: &Registry) -> Option<Reference> {
        Reference::parse(&self.0, default).ok()
    }

    /// The same name with its registry, so that two spellings of one image are equal. A plain name stays: it may be one of this host's own.
    #[must_use]
    pub fn complete(self, default: &Registry) -> Self {
        let plain = !self.0.contains(['/', ':', '@']);
        match self.reference(default).filter(|_| !plain) {
            Some(reference) => Self(reference.to_string()),
            None => self,
        }
    }

    /// The image a sandbox gets when none is named.
    pub fn debian() -> Self {
        Self("debian".to_owned())
    }
}

/// Splits `KEY=VALUE` and checks both halves.
pub fn parse_pair<K: FromStr<Err = SpecError>>(text: &str) -> Result<(K, String), SpecError> {
    let (key, value) = text.split_once('=').ok_or_else(|| SpecError::NoEquals(shorten(text)))?;
    let parsed = key.parse()?;
    check_value(key, value)?;
    Ok((parsed, value.to_owned()))
}

/// Checks the value of a variable or label, wherever it comes from.
pub fn check_value(key: &str, value: &str) -> Result<(), SpecError> {
    if value.len() > MAX_VALUE || value.contains('\0') { Err(SpecError::Value { key: shorten(key) }) } else { Ok(()) }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        assert_eq!(parse_pair::<VarName>("A=b=c").unwrap(), ("A".parse().unwrap(), "b=c".to_owned()));
        for bad in ["A", "=x", "1A=x", "A B=x", "A=\0"] {
            assert!(parse_pair::<VarName>(bad).is_err(), "{bad:?}");
        }
        assert!(parse_pair::<LabelKey>("team/owner=x").is_ok());
    }

    #[test]
    fn image_names_are_no_paths() {
        for bad in ["", "..", "/etc", "a/../b", ".hidden", "A", "a b", &"x".repeat(300)] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        for (text, whole) in [("debian", "debian"), ("python:3", "python:3"), ("owner/app", "owner/app"), ("a.io/b", "a.io/b:latest")] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!((name.as_str(), name.to_string().parse()), (whole, Ok(name.clone())));
        }
    }

    #[test]
    fn short_names_mean_what_the_default_registry_has() {
        let (docker, near) = (Registry::default(), "near.example:5000".parse().unwrap());
        for (text, at_docker, at_near) in [
            ("python:3", "docker.io/library/python:3", "near.example:5000/python:3"),
            ("owner/app", "docker.io/owner/app:latest", "near.example:5000/owner/app:latest"),
            ("docker.io/python:3", "docker.io/library/python:3", "docker.io/library/python:3"),
            ("near.example:5000/a:1", "near.example:5000/a:1", "near.example:5000/a:1"),
            ("debian", "debian", "debian"),
        ] {
            let name: ImageName = text.parse().unwrap();
            for (default, whole) in [(&docker, at_docker), (&near, at_near)] {
                let complete = name.clone().complete(default);
                assert_eq!((complete.as_str(), complete.clone().complete(&docker)), (whole, complete.clone()));
            }
        }
        // One that is a name here and too long there is none there.
        let long: ImageName = format!("a/{}", "b".repeat(200)).parse().unwrap();
        assert!(long.reference(&near).is_some() && long.reference(&format!("{}.example", "c".repeat(30)).parse().unwrap()).is_none());
    }
}
