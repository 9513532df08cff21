//! All layers of an image as one tree in memory: names, rights and where each file's content lies, but none of the content.
//!
//! ```text
//!   members of layer 0 ─┐
//!   members of layer 1 ─┼─► apply: path rules ─► whiteouts ─► put ──► Tree ──► ext4
//!   …                   ┘          no `..`, no way out
//! ```
//!
//! Nothing of a layer is ever a path of the host: a tree has names and numbers, and what becomes of it is written into one file. So a
//! hostile layer has nothing to escape from; what it tries is refused all the same, by name, for no honest layer does it. What a tree takes of
//! memory and of time is counted, and has a limit.

mod apply;
mod data;
mod error;
mod held;
mod path;

use std::collections::BTreeMap;

use crate::layer::{EntryName, Meta, Part};

pub use data::Data;
pub use error::TreeError;
pub use held::MAX_HELD;

/// More names than any image has.
pub const MAX_ENTRIES: usize = 4_000_000;

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
        data: Data,
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
    /// Bytes of memory that everything takes, and may take.
    held: usize,
    limit: usize,
    /// How often a name was looked up.
    looks: usize,
    /// The last way that was followed, and where it ends: members of one directory come one after the other.
    last_way: Option<(Vec<u8>, NodeId)>,
}

impl Tree {
    /// With a root directory and nothing in it.
    pub fn new() -> Self {
        Self::limited(MAX_HELD)
    }

    /// One that may take so many bytes of memory.
    pub fn limited(limit: usize) -> Self {
        let root = Node { meta: Meta { mode: 0o755, ..Meta::default() }, content: Content::Directory(BTreeMap::new()), links: 1 };
        Self { nodes: vec![root], entries: 0, held: 0, limit, looks: 0, last_way: None }
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

    /// Says what of a file is not zeros, once its content was seen; `entry` is the member that it is of.
    pub fn set_data(&mut self, file: NodeId, parts: Vec<Part>, entry: &EntryName) -> Result<(), TreeError> {
        let Content::File { data, size, .. } = &mut self.node_mut(file).content else { return Ok(()) };
        let now = Data::of(parts, *size);
        let held = now.held();
        let replaced = std::mem::replace(data, now);
        self.hold(held, entry)?;
        self.release(replaced.held());
        Ok(())
    }

    /// A path that leads to a node, for people.
    pub fn path_of(&self, id: NodeId) -> EntryName {
        let mut parents = vec![None; self.nodes.len()];
        for (node, above) in self.nodes.iter().zip(0..) {
            if let Content::Directory(children) = &node.content {
                for (name, child) in children {
                    parents[child.id.index()] = Some((NodeId(above), name));
                }
            }
        }
        let (mut names, mut at) = (Vec::new(), id);
        while let Some((above, name)) = parents[at.index()] {
            names.push(&name[..]);
            at = above;
        }
        names.reverse();
        EntryName::of(&names.join(&b'/'))
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
