//! A tree as an ext4 file system that is only ever read: planned as a whole, then written once, to its final places.
//!
//! ```text
//!   block 0   superblock │ descriptors │ block maps │ inode maps │ inodes │ directories, long links,  │ content of files
//!             (no copies)    of groups    of groups    of groups             attributes, extent trees   one after the other
//! ```
//!
//! Everything lies in the first blocks without a gap, so a map is a number of ones, a file without holes is one extent, and nothing is
//! searched for. No journal, no checksums of metadata, no hashed directories: nothing is ever changed, the guest would compute the checksums in
//! software, and the host has a digest of the whole. Times, identity and order come from the tree, so the same tree gives the same bytes.
//!
//! The format is that of the kernel's `Documentation/filesystems/ext4`; `e2fsck` and the kernel are what it is held against.

mod attributes;
mod bytes;
mod directory;
mod extents;
mod inode;
mod layout;
mod superblock;
mod write;

pub use layout::{Ext4Error, Layout, Run};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
/// Blocks of a group: as many as a block has bits.
const GROUP: u64 = 8 * BLOCK;
const INODE_LEN: usize = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE_LEN as u64;
/// The first that is nobody's by definition.
const FIRST_INODE: u32 = 11;
const ROOT_INODE: u32 = 2;
