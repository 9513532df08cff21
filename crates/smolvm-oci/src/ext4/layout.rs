//! Where everything will lie, decided before a byte is written.

use std::num::NonZeroU32;

use super::attributes::{self, Place, Unfit};
use super::extents::{self, blocks_of};
use super::superblock::DESCRIPTOR;
use super::{BLOCK, FIRST_INODE, GROUP, INODES_PER_BLOCK, ROOT_INODE, directory};
use crate::layer::{EntryName, Part};
use crate::tree::{Content, NodeId, Tree};

/// Longest target that fits into an inode.
pub(super) const SHORT_TARGET: usize = 59;
/// Most inodes of a group: its map is one block.
const MAX_INODES_PER_GROUP: u64 = GROUP;
/// Without 64-bit block numbers: 16 TiB, and far more than is taken.
const MAX_BLOCKS: u64 = 1 << 30;
/// Blocks of a directory: what the entries in an inode lead to, 512 MiB.
const MAX_DIRECTORY: u64 = extents::IN_INODE as u64 * extents::MAX_LENGTH;

/// Why a tree does not fit into a file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ext4Error {
    /// An extended attribute that ext4 cannot keep.
    #[error("{entry} has the extended attribute {name:?}, which cannot be kept in a file system")]
    Attribute {
        /// Whose.
        entry: EntryName,
        /// Its name.
        name: String,
    },
    /// A directory with more names than are taken.
    #[error("{entry} is a directory of {blocks} blocks, and {MAX_DIRECTORY} are taken at most")]
    Directory {
        /// Which.
        entry: EntryName,
        /// How many blocks its names take.
        blocks: u64,
    },
    /// More blocks than are taken.
    #[error("the file system would have {blocks} blocks")]
    TooBig {
        /// How many.
        blocks: u64,
    },
}

/// A stretch of a file and where it lies, all in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Within the file.
    pub logical: u64,
    /// Within the image.
    pub physical: u64,
    /// How many.
    pub length: u64,
}

/// Where one node lies; block numbers count from the first block after the inodes. There is one for each file: it is small.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) id: NodeId,
    pub(super) attributes: Place,
    /// The block of its attributes, if it has one.
    pub(super) attribute_block: u32,
    /// A directory's blocks, a long target's block, or a file's extent tree.
    pub(super) meta_block: u32,
    pub(super) meta_blocks: u32,
    /// The first block of a file's content.
    pub(super) data_block: u32,
}

/// The numbers of a file system.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes_per_group: u64,
    pub(super) used_blocks: u64,
    pub(super) used_inodes: u64,
}

/// A file system, planned.
#[derive(Debug)]
pub struct Layout {
    pub(super) geometry: Geometry,
    pub(super) placed: Vec<Placed>,
    /// By a node's index, the how-manieth of `placed` it is; none for nodes without a name.
    position: Vec<Option<NonZeroU32>>,
}

/// Blocks that are given away one after the other.
struct Blocks(u64);

impl Blocks {
    /// The first of so many.
    fn take(&mut self, blocks: u64) -> Result<u32, Ext4Error> {
        let first = self.0;
        self.0 = first.saturating_add(blocks);
        if self.0 > MAX_BLOCKS {
            return Err(Ext4Error::TooBig { blocks: self.0 });
        }
        // Fewer than 2^30.
        Ok(u32::try_from(first).unwrap_or(u32::MAX))
    }
}

impl Layout {
    /// Plans the file system of a tree.
    pub fn of(tree: &Tree) -> Result<Self, Ext4Error> {
        let order = tree.walk();
        let mut position = vec![None; tree.capacity()];
        let mut placed = Vec::with_capacity(order.len());
        let mut blocks = Blocks(0);
        for id in order {
            placed.push(place(tree, id, &mut blocks)?);
            position[id.index()] = u32::try_from(placed.len()).ok().and_then(NonZeroU32::new);
        }
        for at in &mut placed {
            if let Content::File { data, size, .. } = &tree.node(at.id).content {
                at.data_block = blocks.take(data.parts(*size).map(|part| blocks_of(part.length)).sum())?;
            }
        }
        let used_inodes = u64::from(FIRST_INODE) - 2 + placed.len() as u64;
        Ok(Self { geometry: Geometry::of(blocks.0, used_inodes)?, placed, position })
    }

    /// The image's length.
    pub fn image_bytes(&self) -> u64 {
        self.geometry.blocks * BLOCK
    }

    /// Where a file's content goes.
    pub fn runs(&self, tree: &Tree, file: NodeId) -> Vec<Run> {
        let Some(at) = self.placed_of(file) else { return Vec::new() };
        let Content::File { data, size, .. } = &tree.node(file).content else { return Vec::new() };
        runs(data.parts(*size), self.geometry.first_free() + u64::from(at.data_block)).collect()
    }

    pub(super) fn placed_of(&self, id: NodeId) -> Option<&Placed> {
        self.position[id.index()].and_then(|nth| self.placed.get(nth.get() as usize - 1))
    }

    /// The inode of a node.
    pub(super) fn inode(&self, id: NodeId) -> u32 {
        match self.position[id.index()].map(NonZeroU32::get) {
            Some(1) | None => ROOT_INODE,
            Some(nth) => FIRST_INODE - 2 + nth,
        }
    }
}

pub(super) fn runs(data: impl Iterator<Item = Part>, mut physical: u64) -> impl Iterator<Item = Run> {
    data.map(move |part| {
        let length = blocks_of(part.length);
        physical += length;
        Run { logical: part.offset / BLOCK, physical: physical - length, length }
    })
}

fn place(tree: &Tree, id: NodeId, blocks: &mut Blocks) -> Result<Placed, Ext4Error> {
    let node = tree.node(id);
    let attributes = attributes::place(&node.meta.xattrs).map_err(|Unfit(name)| Ext4Error::Attribute { entry: tree.path_of(id), name })?;
    let attribute_block = if attributes == Place::Block { blocks.take(1)? } else { 0 };
    let meta_blocks: u64 = match &node.content {
        Content::Directory(children) => directory_blocks(children.keys().map(|name| name.len()))
            .map_err(|blocks| Ext4Error::Directory { entry: tree.path_of(id), blocks })?,
        Content::Symlink(target) if target.len() > SHORT_TARGET => 1,
        Content::File { data, size, .. } => {
            extents::tree_blocks(data.parts(*size).map(|part| extents::entries(blocks_of(part.length))).sum())
        }
        Content::Symlink(_) | Content::Char { .. } | Content::Block { .. } | Content::Fifo => 0,
    };
    let meta_block = blocks.take(meta_blocks)?;
    // No directory, and no tree of extents, has as many as that.
    let meta_blocks = u32::try_from(meta_blocks).map_err(|_| Ext4Error::TooBig { blocks: meta_blocks })?;
    Ok(Placed { id, attributes, attribute_block, meta_block, meta_blocks, data_block: 0 })
}

/// Blocks of a directory with names of these lengths, or how many it would need.
fn directory_blocks(names: impl Iterator<Item = usize>) -> Result<u64, u64> {
    let blocks = directory::count([1, 2].into_iter().chain(names));
    if blocks > MAX_DIRECTORY { Err(blocks) } else { Ok(blocks) }
}

impl Geometry {
    /// For so many blocks of content and so many inodes.
    fn of(content: u64, used_inodes: u64) -> Result<Self, Ext4Error> {
        let mut groups = used_inodes.div_ceil(MAX_INODES_PER_GROUP).max(1);
        loop {
            // The tables grow with the number of groups, and the number of groups with the tables.
            let inodes_per_group = used_inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
            let mut geometry = Self { blocks: 0, groups, inodes_per_group, used_blocks: 0, used_inodes };
            geometry.used_blocks = geometry.first_free() + content;
            if geometry.used_blocks > MAX_BLOCKS {
                return Err(Ext4Error::TooBig { blocks: geometry.used_blocks });
            }
            let needed = geometry.used_blocks.div_ceil(GROUP);
            if needed <= groups {
                // A group that is there for its inodes has at least one block.
                geometry.blocks = geometry.used_blocks.max((groups - 1) * GROUP + 1);
                return Ok(geometry);
            }
            groups = needed;
        }
    }

    pub(super) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    pub(super) fn descriptor_blocks(&self) -> u64 {
        (self.groups * DESCRIPTOR as u64).div_ceil(BLOCK)
    }

    pub(super) fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    pub(super) fn block_map(&self, group: u64) -> u64 {
        1 + self.descriptor_blocks() + group
    }

    pub(super) fn inode_map(&self, group: u64) -> u64 {
        self.block_map(self.groups) + group
    }

    pub(super) fn inode_table(&self, group: u64) -> u64 {
        self.inode_map(self.groups) + group * self.table_blocks()
    }

    /// The first block after the inodes.
    pub(super) fn first_free(&self) -> u64 {
        self.inode_table(self.groups)
    }

    pub(super) fn blocks_in(&self, group: u64) -> u64 {
        (self.blocks - group * GROUP).min(GROUP)
    }

    pub(super) fn used_blocks_in(&self, group: u64) -> u64 {
        self.used_blocks.saturating_sub(group * GROUP).min(GROUP)
    }

    pub(super) fn used_inodes_in(&self, group: u64) -> u64 {
        self.used_inodes.saturating_sub(group * self.inodes_per_group).min(self.inodes_per_group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leads to a directory's blocks stands in its inode alone.
    #[test]
    fn a_directory_that_its_inode_cannot_lead_to_is_refused() {
        // Fifteen names of this length are a block, and the directory's own two take room for none of them.
        let names = |blocks: u64| std::iter::repeat_n(255, usize::try_from(blocks * 15).unwrap());
        assert_eq!(directory_blocks(names(MAX_DIRECTORY)), Ok(MAX_DIRECTORY));
        assert_eq!(directory_blocks(names(MAX_DIRECTORY + 1)), Err(MAX_DIRECTORY + 1));
        let encoded = |length| extents::encode(&extents::split(std::iter::once(Run { logical: 0, physical: 9, length })), 0).1.len();
        assert_eq!((encoded(MAX_DIRECTORY), encoded(MAX_DIRECTORY + 1)), (0, 1));
    }
}
