//! All layers of an image as one tree in memory: names, rights and where each file's content lies, but none of the content.
//!
//! ```text
//!   members of layer 0 ─┐
//!   members of layer 1 ─┼─► apply: path rules ─► whiteouts ─► put ──► Tree ──► ext4
//!   …                   ┘          no `..`, no way out
//! ```
//!
//! Nothing of a layer is ever a path of the host: a tree has names and numbers, and what becomes of it is written into one file. So a
//! hostile layer has nothing to escape from; what it tries is refused all the same, by name, for no honest layer does it.

mod apply;
mod error;
mod path;

use std::collections::BTreeMap;

use crate::layer::{Meta, Part};

pub use error::TreeError;

/// More names than any image has.
pub const MAX_ENTRIES: usize = 4_000_000;
/// All names together.
const MAX_NAME_BYTES: usize = 512 << 20;

/// A node's place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// Where a file's content is: in which layer, and in the how-manieth member of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Number of the layer, from below.
    pub layer: u32,
    /// Number of the member.
    pub member: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// What it leads to.
    pub id: NodeId,
    /// The layer that said so last.
    layer: u32,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Names of other nodes.
    Directory(BTreeMap<Box<[u8]>, Child>),
    /// A file.
    File {
        /// Its length.
        size: u64,
        /// What of it is not zeros, in order.
        data: Vec<Part>,
        /// Where it comes from.
        source: Source,
    },
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
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

/// One file, directory or other thing; several names may lead to it.
#[derive(Debug, Clone)]
pub struct Node {
    /// Rights, owner, time, attributes.
    pub meta: Meta,
    /// What it is.
    pub content: Content,
    /// How many names lead to it.
    pub links: u32,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    entries: usize,
    name_bytes: usize,
    /// How often whiteouts looked at a name.
    looks: usize,
}

impl Tree {
    /// With a root directory and nothing in it.
    pub fn new() -> Self {
        let root = Node { meta: Meta { mode: 0o755, ..Meta::default() }, content: Content::Directory(BTreeMap::new()), links: 1 };
        Self { nodes: vec![root], entries: 0, name_bytes: 0, looks: 0 }
    }

    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        // An id is made by this tree, which never shrinks.
        &self.nodes[id.0 as usize]
    }

    /// The child of that name.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).content {
            Content::Directory(children) => children.get(name).map(|child| child.id),
            _ => None,
        }
    }

    /// Says what of a file is not zeros, once its content was seen.
    pub fn set_data(&mut self, file: NodeId, parts: Vec<Part>) {
        if let Content::File { data, .. } = &mut self.nodes[file.0 as usize].content {
            *data = parts;
        }
    }

    /// Every node that has a name, each once, directories before what is in them; the same order for the same tree.
    pub fn walk(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut order = Vec::new();
        let mut waiting = vec![Self::ROOT];
        while let Some(id) = waiting.pop() {
            if std::mem::replace(&mut seen[id.0 as usize], true) {
                continue;
            }
            order.push(id);
            if let Content::Directory(children) = &self.node(id).content {
                waiting.extend(children.values().rev().map(|child| child.id));
            }
        }
        order
    }

    /// How many nodes there ever were; ids are smaller.
    pub fn capacity(&self) -> usize {
        self.nodes.len()
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
