//! What a tree takes of memory, counted while it grows: a layer of some kilobytes can say gigabytes of names, targets and attributes.
//!
//! What is planned and looked up for each node later is counted with it, so that the whole of an image is below the limit and not its tree alone.

use super::error::TreeError;
use super::{Child, Content, Node, Tree};
use crate::layer::{EntryName, Meta};

/// What a tree may take of memory, unless it is said otherwise: some 700,000 files with names of usual lengths. With a decoder of the usual
/// size and the program itself that is less than 200 MiB.
pub const MAX_HELD: usize = 144 << 20;
/// What a node takes once it is planned: its place (24), its number (4), its parent (4), its source (12), its turn (5).
const PLANNED: usize = 49;
/// What an allocation costs beside what it is for.
const EACH: usize = 32;
/// Places in the smallest block of a map.
const MAP: usize = 11;

/// A node without names.
pub(super) fn node(node: &Node) -> usize {
    PLANNED + size_of::<Node>() + meta(&node.meta) + content(&node.content)
}

/// What a node's attributes take.
pub(super) fn meta(meta: &Meta) -> usize {
    let attribute = |(name, value): (&String, &Vec<u8>)| size_of::<(String, Vec<u8>)>() + name.len() + value.len() + 2 * EACH;
    meta.xattrs.iter().map(attribute).sum()
}

/// What a node's content takes, but for the names in a directory.
pub(super) fn content(content: &Content) -> usize {
    match content {
        Content::Directory(_) => MAP * (size_of::<Box<[u8]>>() + size_of::<Child>()),
        Content::File { data, .. } => data.held(),
        Content::Symlink(target) => target.len() + EACH,
        Content::Char { .. } | Content::Block { .. } | Content::Fifo => 0,
    }
}

/// A name in a directory.
pub(super) fn name(name: &[u8]) -> usize {
    size_of::<Box<[u8]>>() + size_of::<Child>() + name.len() + EACH
}

impl Tree {
    /// Says that no more than this may be taken from now on; more may be taken already.
    pub fn limit_to(&mut self, bytes: usize) -> Result<(), TreeError> {
        self.limit = self.limit.min(bytes);
        self.hold(0, &EntryName::of(b"."))
    }

    /// Takes so much more.
    pub(super) fn hold(&mut self, bytes: usize, entry: &EntryName) -> Result<(), TreeError> {
        self.held = self.held.saturating_add(bytes);
        if self.held > self.limit { Err(TreeError::TooMuch { entry: entry.clone() }) } else { Ok(()) }
    }

    /// Has given so much back.
    pub(super) fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }
}
