//! What a tree takes of memory, counted while it grows: a layer of some kilobytes can say gigabytes of names, targets and attributes.

use super::error::TreeError;
use super::{Child, Content, Node, Tree};
use crate::layer::{EntryName, Meta, Part};

/// What a tree may take of memory, unless it is said otherwise: two million files with names of usual lengths.
pub const MAX_HELD: usize = 512 << 20;
/// What an allocation costs beside what it is for.
const EACH: usize = 32;
/// Places in the smallest block of a map.
const MAP: usize = 11;

/// A node without names.
pub(super) fn node(node: &Node) -> usize {
    size_of::<Node>() + meta(&node.meta) + content(&node.content)
}

/// What a node's attributes take.
pub(super) fn meta(meta: &Meta) -> usize {
    if meta.xattrs.is_empty() {
        return 0;
    }
    let attributes: usize = meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 2 * EACH).sum();
    MAP * (size_of::<String>() + size_of::<Vec<u8>>()) + attributes
}

/// What a node's content takes, but for the names in a directory.
pub(super) fn content(content: &Content) -> usize {
    match content {
        Content::Directory(_) => MAP * (size_of::<Box<[u8]>>() + size_of::<Child>()),
        Content::File { data, .. } => parts(data),
        Content::Symlink(target) => target.len() + EACH,
        Content::Char { .. } | Content::Block { .. } | Content::Fifo => 0,
    }
}

/// What a file's map takes.
pub(super) fn parts(parts: &[Part]) -> usize {
    size_of_val(parts)
}

/// A name in a directory.
pub(super) fn name(name: &[u8]) -> usize {
    size_of::<Box<[u8]>>() + size_of::<Child>() + name.len() + EACH
}

impl Tree {
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
