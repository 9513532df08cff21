//! Why a member is refused, with its name.

use crate::layer::EntryName;

/// What a layer must not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A name that goes upwards, or is no name.
    #[error("{entry} is no path within an image")]
    Path {
        /// The member.
        entry: EntryName,
    },
    /// A symbolic link on the way leads above the root of the image, or in a circle.
    #[error("{entry} lies behind a symbolic link that leads out of the image")]
    Escape {
        /// The member.
        entry: EntryName,
    },
    /// What should contain it is no directory.
    #[error("{entry} lies in something that is no directory")]
    NotInDirectory {
        /// The member.
        entry: EntryName,
    },
    /// A hard link to what is not there, or to a directory.
    #[error("{entry} is a link to {target}, which is no file that was there before")]
    LinkTarget {
        /// The member.
        entry: EntryName,
        /// What it names.
        target: EntryName,
    },
    /// More names for one file than a file system has.
    #[error("{entry} is one link too many")]
    TooManyLinks {
        /// The member.
        entry: EntryName,
    },
    /// A whiteout that hides nothing that can be named.
    #[error("{entry} is a whiteout of nothing")]
    Whiteout {
        /// The member.
        entry: EntryName,
    },
    /// Device numbers that no kernel has.
    #[error("{entry} has device numbers that no kernel has")]
    Device {
        /// The member.
        entry: EntryName,
    },
    /// The root of the image is a directory.
    #[error("{entry} would make the root of the image something else than a directory")]
    Root {
        /// The member.
        entry: EntryName,
    },
    /// More names than are taken.
    #[error("{entry} is one entry too many")]
    TooMany {
        /// The member.
        entry: EntryName,
    },
    /// More memory than is taken.
    #[error("names, links and attributes of the image take more memory than they may, at {entry}")]
    TooMuch {
        /// The member at which it was passed.
        entry: EntryName,
    },
    /// More time than is taken.
    #[error("looking up names and links of the image takes more steps than it may, at {entry}")]
    TooSlow {
        /// The member at which it was passed.
        entry: EntryName,
    },
    /// A file that is longer than any.
    #[error("{entry} is a file of {size} bytes, which is more than a file system takes")]
    FileSize {
        /// The member.
        entry: EntryName,
        /// What it says.
        size: u64,
    },
}
