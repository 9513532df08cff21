//! What people call an image of a registry: `python:3.13-slim`, `ghcr.io/owner/app@sha256:…`.
//!
//! ```text
//!   [registry/]repository[:tag][@sha256:…]
//!    │          └ lower case, components between slashes
//!    └ the first component, if it has a dot or a port or is `localhost`; the default registry without
//! ```
//!
//! A reference that exists is complete: it names its registry, and a tag or a digest. Its text is canonical, so two spellings of one
//! image are equal, and it is short enough to be the name of a file.

use std::fmt;
use std::net::IpAddr;

/// Where short names are looked for unless something else is configured.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest reference: with a slash written as one other byte it is a file name.
const MAX: usize = 240;
const MAX_TAG: usize = 128;

/// An image of a registry, named completely.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Registry,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// The host of a registry, with its port if one is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry(String);

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing, or more than any name has.
    #[error("an image's name has 1 to {MAX} characters, and this has {0}")]
    Length(usize),
    /// Not a host with a port.
    #[error("{0:?} is not the host of a registry")]
    Registry(String),
    /// Not a repository.
    #[error("{0:?} is not a repository: lower-case letters and digits, single '.', '_' or '-' between them, '/' between components")]
    Repository(String),
    /// Not a tag.
    #[error("{0:?} is not a tag: letters, digits, '.', '_' and '-', at most {MAX_TAG}, a letter or digit first")]
    Tag(String),
    /// Not a digest that can be checked.
    #[error("{0:?} is not a digest: sha256 and 64 hexadecimal digits")]
    Digest(String),
}

impl Reference {
    /// Reads a name; one without a registry is looked for in `default`.
    pub fn parse(text: &str, default: &Registry) -> Result<Self, ReferenceError> {
        if text.is_empty() || text.len() > MAX {
            return Err(ReferenceError::Length(text.len()));
        }
        let (text, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
            None => (text, None),
        };
        let (registry, rest) = match text.split_once('/') {
            Some((first, rest)) if names_host(first) => (first.parse()?, rest),
            Some(_) | None => (default.clone(), text),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(check_tag(tag)?)),
            None => (rest, None),
        };
        let repository =
            if registry.as_str() == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if !repository.split('/').all(is_component) {
            return Err(ReferenceError::Repository(shorten(path)));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        let whole = Self { registry, repository, tag, digest };
        let length = whole.to_string().len();
        if length > MAX { Err(ReferenceError::Length(length)) } else { Ok(whole) }
    }

    /// Whether a name says where it is kept; one that does not means what the default registry has.
    pub fn names_registry(text: &str) -> bool {
        text.split_once('/').is_some_and(|(first, _)| names_host(first))
    }

    /// Where it is kept.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Under which name.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Its tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `sha256:` and the digits, where it names its content.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What a registry is asked for: the digest if there is one, for a tag may have moved.
    pub fn wanted(&self) -> &str {
        // One of them is always there.
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// What people call it whose names without a registry are looked for in `default`; nothing where it is kept elsewhere.
    pub fn short(&self, default: &Registry) -> Option<String> {
        let text = self.to_string();
        let rest = text.strip_prefix(default.as_str())?.strip_prefix('/')?;
        let plain = rest.strip_prefix("library/").filter(|plain| default.as_str() == DEFAULT_REGISTRY && !plain.contains('/'));
        let short = plain.unwrap_or(rest);
        Some(short.to_owned()).filter(|short| Self::parse(short, default).as_ref() == Ok(self))
    }

    /// The same name; where it names its content, this content. Of an index and of the image in it, a name can be either's.
    #[must_use]
    pub fn pinned_to(&self, digest: &str) -> Self {
        let digest = self.digest.as_ref().and_then(|_| check_digest(digest).ok()).or_else(|| self.digest.clone());
        Self { digest, ..self.clone() }
    }

    /// A file name that no other reference has: `+` cannot stand in a reference, and a port's colon never follows a slash.
    pub fn file_name(&self) -> String {
        self.to_string().replace('/', "+")
    }

    /// The reference of a file name.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let text = name.replace('+', "/");
        Self::parse(&text, &Registry::default()).ok().filter(|reference| reference.file_name() == name)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl Registry {
    /// Host and port as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, and without the brackets of an address.
    pub fn host(&self) -> &str {
        match self.0.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => self.0.split(':').next().unwrap_or_default(),
        }
    }

    /// Whether it can only be this machine: an address of the loopback, or the name that stands for it everywhere.
    pub fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.host().parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self(DEFAULT_REGISTRY.to_owned())
    }
}

impl std::str::FromStr for Registry {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = || ReferenceError::Registry(shorten(text));
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or_else(bad)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (None, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            },
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let good_port =
            port.is_none_or(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0));
        if !good_port || host.is_some_and(|host| host.len() > 253 || !host.split('.').all(label)) {
            return Err(bad());
        }
        let text = text.to_ascii_lowercase();
        Ok(Self(if text == "index.docker.io" { DEFAULT_REGISTRY.to_owned() } else { text }))
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the first component of a name is a host and no part of a repository. Capitals do not make it one: written back, it has none.
fn names_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '['])
}

/// `[a-z0-9]+` with `.`, `_`, `__` or any number of `-` between.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    let between = bytes.split(|b| alphanumeric(*b)).filter(|run| !run.is_empty());
    ends && between.into_iter().all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

fn check_tag(text: &str) -> Result<String, ReferenceError> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = text.len() <= MAX_TAG && text.bytes().next().is_some_and(first) && text.bytes().all(rest);
    if good { Ok(text.to_owned()) } else { Err(ReferenceError::Tag(shorten(text))) }
}

fn check_digest(text: &str) -> Result<String, ReferenceError> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if good { Ok(text.to_owned()) } else { Err(ReferenceError::Digest(shorten(text))) }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, ReferenceError> {
        Reference::parse(text, &Registry::default()).map(|reference| reference.to_string())
    }

    #[test]
    fn capitals_do_not_make_a_host() {
        for bad in ["Host/app", "LOCALHOST/app"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("Host.example/app").unwrap(), "host.example/app:latest");
    }

    #[test]
    fn short_names_are_completed() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, whole) in [
            ("python", "docker.io/library/python:latest".to_owned()),
            ("python:3.13-slim", "docker.io/library/python:3.13-slim".to_owned()),
            ("owner/app", "docker.io/owner/app:latest".to_owned()),
            ("index.docker.io/python", "docker.io/library/python:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("GHCR.io/a/b__c", "ghcr.io/a/b__c:latest".to_owned()),
            (&format!("a@{digest}"), format!("docker.io/library/a@{digest}")),
            (&format!("quay.io/a:b@{digest}"), format!("quay.io/a:b@{digest}")),
        ] {
            assert_eq!(read(text), Ok(whole.clone()), "{text}");
            assert_eq!(read(&whole), Ok(whole));
        }
        let other = "registry.example:5000".parse().unwrap();
        assert_eq!(Reference::parse("a", &other).unwrap().to_string(), "registry.example:5000/a:latest");
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let long = "a/".repeat(120) + "a";
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "A",
            "a:",
            "a:b:c",
            ":x",
            "a@sha256:12",
            "a@md5:00",
            "a b",
            "../a",
            "a/../b",
            "a._b",
            "a___b",
            "-a",
            "a.io:99999/b",
            "a.io:/b",
            "[::1/b",
            "[::1]x/b",
            "-a.io/b",
            "a\u{e9}",
            "a:-x",
            &long,
            "a+b",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn short_names_mean_the_same_where_they_are_given() {
        let (docker, near) = (Registry::default(), "near.example:5000".parse().unwrap());
        for (whole, default, short) in [
            ("docker.io/library/python:3", &docker, Some("python:3")),
            ("docker.io/owner/app:1", &docker, Some("owner/app:1")),
            ("docker.io/library/a/b:1", &docker, Some("library/a/b:1")),
            ("near.example:5000/library/a:1", &near, Some("library/a:1")),
            ("near.example:5000/a:1", &near, Some("a:1")),
            ("near.example:5000/a.b/c:1", &near, None),
            ("docker.io/library/python:3", &near, None),
        ] {
            let reference = Reference::parse(whole, &docker).unwrap();
            assert_eq!(reference.short(default).as_deref(), short, "{whole}");
        }
    }

    #[test]
    fn file_names_come_back() {
        for text in ["python", "127.0.0.1:5000/a/b:c", "[::1]:5000/a", "quay.io/a/b/c-d"] {
            let reference = Reference::parse(text, &Registry::default()).unwrap();
            assert!(!reference.file_name().contains('/'));
            assert_eq!(Reference::of_file_name(&reference.file_name()), Some(reference));
        }
        for bad in ["python", "docker.io+library+python", "docker.io+library+python:latest.123.tmp+", "..", ""] {
            assert_eq!(Reference::of_file_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let registry = |text: &str| text.parse::<Registry>().unwrap();
        for yes in ["localhost", "localhost:5000", "127.0.0.1", "127.8.8.8:1", "[::1]:5000"] {
            assert!(registry(yes).is_loopback(), "{yes}");
        }
        for no in ["localhost.example", "127.0.0.1.example", "10.0.0.1", "docker.io", "[::2]", "127.1"] {
            assert!(!registry(no).is_loopback(), "{no}");
        }
    }
}
