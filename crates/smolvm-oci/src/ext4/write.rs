//! Writes what was planned: everything but the content of files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::attributes::{self, Place};
use super::directory::Entry;
use super::extents;
use super::inode::{self, Facts};
use super::layout::{Layout, Placed, SHORT_TARGET, runs};
use super::{BLOCK, BLOCK_LEN, INODE_LEN, ROOT_INODE, directory, superblock};
use crate::tree::{Content, NodeId, Tree};

/// Ones in a map, from its beginning.
fn map(ones: u64, last: u64) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    for bit in (0..ones).chain(last..8 * BLOCK) {
        // A group has as many blocks, and at most as many inodes, as its map has bits.
        block[usize::try_from(bit / 8).unwrap_or_default()] |= 1 << (bit % 8);
    }
    block
}

impl Layout {
    /// Writes all metadata into a file that is empty, and gives it its length; what is not written is a hole.
    ///
    /// `identity` is the file system's own; it tells two apart whose content is the same.
    pub fn write_metadata(&self, tree: &Tree, identity: [u8; 16], out: &File) -> io::Result<()> {
        out.set_len(self.image_bytes())?;
        let put = |block: u64, bytes: &[u8]| out.write_all_at(bytes, block * BLOCK);
        let parents = self.parents(tree);
        let geometry = &self.geometry;
        put(0, &superblock::first_block(geometry, identity))?;
        let per_group = geometry.inodes_per_group;
        let mut directories = vec![0; usize::try_from(geometry.groups).unwrap_or_default()];
        let mut table = Table { out, start: geometry.inode_table(0) * BLOCK, first: ROOT_INODE, inodes: Vec::new() };
        for at in &self.placed {
            let number = self.inode(at.id);
            if matches!(tree.node(at.id).content, Content::Directory(_)) {
                directories[usize::try_from(u64::from(number - 1) / per_group).unwrap_or_default()] += 1;
            }
            let inode = self.node(tree, at, parents[at.id.index()], &put)?;
            table.push(number, &inode)?;
        }
        table.flush()?;
        let mut descriptors = Vec::new();
        for (group, directories) in (0..geometry.groups).zip(directories) {
            descriptors.extend_from_slice(&superblock::descriptor(geometry, group, directories));
            put(geometry.block_map(group), &map(geometry.used_blocks_in(group), geometry.blocks_in(group)))?;
            put(geometry.inode_map(group), &map(geometry.used_inodes_in(group), per_group))?;
        }
        put(1, &descriptors)
    }

    /// By a node's index, the inode of the directory it is in.
    fn parents(&self, tree: &Tree) -> Vec<u32> {
        let mut parents = vec![ROOT_INODE; tree.capacity()];
        for at in &self.placed {
            if let Content::Directory(children) = &tree.node(at.id).content {
                for child in children.values() {
                    parents[child.id.index()] = self.inode(at.id);
                }
            }
        }
        parents
    }

    /// Writes one node's own blocks; gives back its inode.
    fn node(&self, tree: &Tree, at: &Placed, parent: u32, put: &impl Fn(u64, &[u8]) -> io::Result<()>) -> io::Result<[u8; INODE_LEN]> {
        let node = tree.node(at.id);
        let base = self.geometry.first_free();
        let (meta, meta_blocks) = (base + u64::from(at.meta_block), u64::from(at.meta_blocks));
        let mut facts = Facts { size: 0, blocks: meta_blocks, links: node.links.into(), place: [0; 60], has_extents: false, attributes: 0 };
        let one_run =
            || extents::encode(&extents::split(std::iter::once(super::Run { logical: 0, physical: meta, length: meta_blocks })), 0).0;
        match &node.content {
            Content::Directory(children) => {
                let mut block = meta;
                directory::blocks(self.entries(tree, at.id, parent), |bytes| {
                    block += 1;
                    put(block - 1, bytes)
                })?;
                let below = children.values().filter(|child| matches!(tree.node(child.id).content, Content::Directory(_))).count() as u64;
                (facts.size, facts.links, facts.has_extents) = (meta_blocks * BLOCK, 2 + below, true);
                facts.place = one_run();
            }
            Content::File { size, data, .. } => {
                let parts = extents::split(runs(data.parts(*size), base + u64::from(at.data_block)));
                let (place, blocks) = extents::encode(&parts, meta);
                for (block, bytes) in (meta..).zip(&blocks) {
                    put(block, bytes)?;
                }
                facts.blocks += parts.iter().map(|run| run.length).sum::<u64>();
                (facts.size, facts.place, facts.has_extents) = (*size, place, true);
            }
            Content::Symlink(target) if target.len() <= SHORT_TARGET => {
                facts.place[..target.len()].copy_from_slice(target);
                facts.size = target.len() as u64;
            }
            Content::Symlink(target) => {
                put(meta, target)?;
                (facts.size, facts.place, facts.has_extents) = (target.len() as u64, one_run(), true);
            }
            Content::Char { major, minor } | Content::Block { major, minor } => facts.place = inode::device(*major, *minor),
            Content::Fifo => {}
        }
        let unfit = |e: attributes::Unfit| io::Error::new(io::ErrorKind::InvalidData, e.0);
        if at.attributes == Place::Block {
            facts.attributes = base + u64::from(at.attribute_block);
            facts.blocks += 1;
            put(facts.attributes, &attributes::write_block(&node.meta.xattrs).map_err(unfit)?)?;
        }
        let mut inode = inode::encode(node, &facts);
        if at.attributes == Place::Inode {
            attributes::write_inode(&mut inode, &node.meta.xattrs).map_err(unfit)?;
        }
        Ok(inode)
    }

    fn entries<'a>(&'a self, tree: &'a Tree, id: NodeId, parent: u32) -> impl Iterator<Item = Entry<'a>> {
        let own = [(self.inode(id), &b"."[..]), (parent, b"..")].map(|(inode, name)| Entry { inode, kind: 2, name });
        let children = match &tree.node(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        };
        let named = children.into_iter().flatten();
        own.into_iter().chain(named.map(|(name, child)| Entry {
            inode: self.inode(child.id),
            kind: inode::kind(&tree.node(child.id).content).1,
            name,
        }))
    }
}

/// Inodes in the order of their numbers, written a megabyte at a time.
struct Table<'a> {
    out: &'a File,
    /// Where inode 1 would lie.
    start: u64,
    first: u32,
    inodes: Vec<u8>,
}

impl Table<'_> {
    fn push(&mut self, number: u32, inode: &[u8; INODE_LEN]) -> io::Result<()> {
        // Root is the second; between it and the first of the others lie eight that stay empty.
        self.inodes.resize(usize::try_from(number - self.first).unwrap_or_default() * INODE_LEN, 0);
        self.inodes.extend_from_slice(inode);
        if self.inodes.len() < 1 << 20 {
            return Ok(());
        }
        self.flush()?;
        self.first = number + 1;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let at = self.start + u64::from(self.first - 1) * INODE_LEN as u64;
        self.out.write_all_at(&std::mem::take(&mut self.inodes), at)
    }
}
