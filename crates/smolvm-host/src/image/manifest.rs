//! The small JSON files beside published artefacts: versioned, refused when newer, read with a cap.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version this program writes, and the newest it reads, of most of them.
pub(super) const VERSION: u32 = 1;
/// More than this is no manifest. Most have a few hundred bytes; that of an image has what its configuration says, which may be 4 MiB, and
/// which is longer here: variables stand in it twice, and short labels have lines of their own.
const CAP: u64 = 16 << 20;
/// More than this is no digest and no name.
const LINE_CAP: u64 = 4096;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A newer program wrote it.
    #[error("{} has version {found}, and this smolvm knows up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is read.
        known: u32,
    },
    /// It is not what a manifest looks like.
    #[error("{} is not a manifest", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It is longer than any manifest.
    #[error("{} is too long for a manifest", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// Reads and checks one.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ManifestError> {
    read_up_to(VERSION, path)
}

/// The same of a kind that has come to another version.
pub(super) fn read_up_to<T: DeserializeOwned>(known: u32, path: &Path) -> Result<T, ManifestError> {
    let bytes = read_small(path, CAP)?;
    let malformed = |source| ManifestError::Malformed { path: path.to_owned(), source };
    // The version first: a newer body may not parse at all.
    let Version { version } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if version > known {
        return Err(ManifestError::Newer { path: path.to_owned(), found: version, known });
    }
    serde_json::from_slice(&bytes).map_err(malformed)
}

/// The text of one, for `fsx::write_atomic`.
pub(super) fn text<T: Serialize>(body: &T) -> Vec<u8> {
    text_of(VERSION, body)
}

/// The same of a kind that has come to another version.
pub(super) fn text_of<T: Serialize>(version: u32, body: &T) -> Vec<u8> {
    // Plain structs of text and numbers: there is nothing in them that JSON cannot say.
    let mut text = serde_json::to_vec_pretty(&Versioned { version, body }).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The same of one that may be longer than is read: what could not be read again is not written.
pub(super) fn text_within<T: Serialize>(path: &Path, body: &T) -> Result<Vec<u8>, ManifestError> {
    let text = text(body);
    if text.len() as u64 > CAP { Err(ManifestError::TooLong { path: path.to_owned() }) } else { Ok(text) }
}

/// A file of one line, such as a pointer to a digest.
pub(super) fn read_line(path: &Path) -> Result<String, ManifestError> {
    Ok(String::from_utf8_lossy(&read_small(path, LINE_CAP)?).trim_end().to_owned())
}

impl ManifestError {
    /// Whether there simply is none.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

fn read_small(path: &Path, cap: u64) -> Result<Vec<u8>, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(cap + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > cap {
        return Err(ManifestError::TooLong { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Body {
        name: String,
    }

    #[test]
    fn unknown_fields_are_ignored_and_newer_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, text(&Body { name: "a".into() })).unwrap();
        assert_eq!(read::<Body>(&path).unwrap(), Body { name: "a".into() });
        std::fs::write(&path, r#"{"version":1,"name":"a","later":[1]}"#).unwrap();
        assert_eq!(read::<Body>(&path).unwrap(), Body { name: "a".into() });
        std::fs::write(&path, r#"{"version":2,"nom":"a"}"#).unwrap();
        assert!(matches!(read::<Body>(&path), Err(ManifestError::Newer { found: 2, .. })));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(read::<Body>(&path), Err(ManifestError::Malformed { .. })));
        File::create(&path).unwrap().set_len(CAP * 4096).unwrap();
        assert!(matches!(read::<Body>(&path), Err(ManifestError::TooLong { .. })));
        assert!(matches!(read_line(&path), Err(ManifestError::TooLong { .. })));
        assert!(read::<Body>(&dir.path().join("none")).unwrap_err().is_absent());
    }
}
