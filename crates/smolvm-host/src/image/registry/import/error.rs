//! Why a file system cannot become an image.

use std::io::{self, ErrorKind};

use smolvm_oci::layer::EntryName;

use crate::fsx::FsError;
use crate::image::error::ImageError;

/// Why a file system cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Packed with something that no layer may be packed with.
    #[error("it is packed with {tool}")]
    Packing {
        /// The program that unpacks it.
        tool: &'static str,
    },
    /// An image in a file, not the root of a file system.
    #[error("it is the archive of an image, not of a file system")]
    IsImage,
    /// Nothing is in it.
    #[error("it has no files")]
    Empty,
    /// The layer would be longer than any may be.
    #[error("{entry} does not fit: a layer has {limit} bytes at most")]
    TooLong {
        /// What it was written for when it became so.
        entry: EntryName,
        /// What is taken.
        limit: u64,
    },
    /// More is in it than layers may have.
    #[error("it unpacks to more than {limit} bytes, and no more is taken")]
    Unpacked {
        /// What is taken.
        limit: u64,
    },
    /// It has a name that layers keep for something else.
    #[error("{entry} has a name by which a layer would say that something is gone")]
    Whiteout {
        /// Which.
        entry: EntryName,
    },
    /// It has an attribute that would be another one in a layer, or none.
    #[error("{entry} has an extended attribute {name}, and a layer has no way to say that name")]
    Xattr {
        /// Which.
        entry: EntryName,
        /// The attribute.
        name: EntryName,
    },
    /// Somebody wrote to it meanwhile.
    #[error("{entry} was changed while it was read")]
    Changed {
        /// Which.
        entry: EntryName,
    },
    /// Deeper or longer than any path.
    #[error("{entry} is deeper than a path can be")]
    Deep {
        /// Which.
        entry: EntryName,
    },
    /// It cannot be read.
    #[error("{entry} cannot be read")]
    Read {
        /// Which.
        entry: EntryName,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An archive, where others are the entry of a directory.
pub(super) const ARCHIVE: &[u8] = b"the archive";

/// What it means that a layer takes no more: its cap, or else what the host says.
pub(super) fn not_taken(source: io::Error, entry: &EntryName, limit: u64, host: impl FnOnce(io::Error) -> FsError) -> ImageError {
    // A file system that has no files of such a length has a number for that.
    if source.kind() == ErrorKind::FileTooLarge && source.raw_os_error().is_none() {
        ImportError::TooLong { entry: entry.clone(), limit }.into()
    } else {
        host(source).into()
    }
}
