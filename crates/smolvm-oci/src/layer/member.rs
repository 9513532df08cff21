//! One member of a layer, as its headers describe it.

use super::attributes::Attributes;

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Time {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What every kind of member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The lower twelve bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Extended attributes.
    pub xattrs: Attributes,
}

/// A stretch of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where in the file.
    pub offset: u64,
    /// How long.
    pub length: u64,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file; its content follows in the stream.
    File {
        /// Its length, holes included.
        size: u64,
        /// What of it is in the stream, if not all of it.
        parts: Option<Vec<Part>>,
    },
    /// Another name of a file that was there before.
    Link {
        /// Which, from the root of the image.
        target: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// What it says.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A character device.
    Char {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name as the archive has it: bytes, not yet judged.
    pub path: Vec<u8>,
    /// Rights, owner, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}
