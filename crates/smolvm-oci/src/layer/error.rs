//! Why a layer cannot be read, with the member it fails at.

use std::fmt;
use std::io;

/// A member's name for people: bytes that are not text, and control characters, are escaped; long ones are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(pub Vec<u8>);

impl EntryName {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().take(512).copied().collect())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What is wrong with a layer.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream cannot be read or unpacked.
    #[error("the layer cannot be read after {entry}")]
    Read {
        /// The last member that was read.
        entry: EntryName,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ends inside a member.
    #[error("the layer ends within {entry}")]
    Truncated {
        /// The member.
        entry: EntryName,
    },
    /// A header is no header.
    #[error("what follows {entry} in the layer is no header")]
    Header {
        /// The last member that was read.
        entry: EntryName,
    },
    /// A number in a header is none.
    #[error("{entry} has no valid {field}")]
    Number {
        /// The member.
        entry: EntryName,
        /// Which field.
        field: &'static str,
    },
    /// The extended headers of one member are longer than any.
    #[error("{entry} has a header of {size} bytes")]
    HeaderSize {
        /// The member, or the one before.
        entry: EntryName,
        /// What they say, together.
        size: u64,
    },
    /// An extended header does not follow its format.
    #[error("{entry} has a malformed extended header")]
    Pax {
        /// The member, or the one before.
        entry: EntryName,
    },
    /// An extended attribute that cannot be kept.
    #[error("{entry} has the extended attribute {name:?}, which no file system keeps, alone or with the others")]
    Xattr {
        /// The member.
        entry: EntryName,
        /// The attribute.
        name: String,
    },
    /// The map of a sparse file contradicts itself.
    #[error("{entry} has a sparse map that does not fit its size")]
    Sparse {
        /// The member.
        entry: EntryName,
    },
    /// A kind of member that is in no layer.
    #[error("{entry} is of a kind that no layer has ({kind:?})")]
    Kind {
        /// The member.
        entry: EntryName,
        /// Its type byte.
        kind: char,
    },
    /// A symbolic link without a target, or with one that no kernel takes.
    #[error("{entry} is a link whose target is empty, too long or has a NUL")]
    Target {
        /// The member.
        entry: EntryName,
    },
}
