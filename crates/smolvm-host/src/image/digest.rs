//! SHA-256 digests: the address of everything in the cache.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::fsx::data_from;

/// A SHA-256, as 64 lower-case hexadecimal digits; so it is safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 64 hexadecimal digits, after `sha256:` or alone")]
pub struct DigestError;

impl Digest {
    /// Of bytes in memory; the parts count as one text.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        Self::from_bytes(&hash.finalize())
    }

    /// Of a file's content.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 1 << 20];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(Self::from_bytes(&hash.finalize())),
                Ok(n) => hash.update(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Of the data of a file that is mostly holes: of each 64 KiB that are not all zeros, after their number, and of the
    /// length. So it does not matter which zeros the file system keeps.
    pub fn of_sparse_file(path: &Path) -> io::Result<Self> {
        const BLOCK: u64 = 64 << 10;
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut hash = Sha256::new();
        let mut block = vec![0; 64 << 10];
        let mut at = 0;
        while let Some(data) = data_from(&file, at)? {
            at = data.start / BLOCK * BLOCK;
            // It may grow meanwhile: then it is another one.
            let wanted = usize::try_from(len.saturating_sub(at).min(BLOCK)).unwrap_or(0);
            if wanted == 0 {
                break;
            }
            let bytes = &mut block[..wanted];
            file.read_exact_at(bytes, at)?;
            if bytes.iter().any(|byte| *byte != 0) {
                hash.update((at / BLOCK).to_le_bytes());
                hash.update(bytes);
            }
            at += wanted as u64;
        }
        hash.update(len.to_le_bytes());
        Ok(Self::from_bytes(&hash.finalize()))
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people and for names that carry something else as well.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        use fmt::Write;
        let mut hex = String::with_capacity(64);
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Self(hex)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let good = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if good { Ok(Self(hex.to_owned())) } else { Err(DigestError) }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value_and_file_agree() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(&[]).hex(), empty);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "ab").unwrap();
        assert_eq!(Digest::of_file(&path).unwrap(), Digest::of(&[b"a", b"b"]));
    }

    #[test]
    fn only_digests_are_digests() {
        let good = Digest::of(&[b"x"]);
        assert_eq!(good.to_string().parse::<Digest>(), Ok(good.clone()));
        assert_eq!(good.hex().parse::<Digest>(), Ok(good.clone()));
        for bad in ["", "..", "../..", "sha256:", &good.hex().to_uppercase(), &format!("{}0", good.hex()), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError), "{bad:?}");
        }
    }
}
