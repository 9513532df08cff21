//! The superblock and the descriptors of the groups.

use super::bytes::{low16, low32, put16, put32};
use super::layout::Geometry;
use super::{BLOCK_LEN, FIRST_INODE, GROUP, INODE_LEN};

/// Attributes; copies of the superblock where two fields say, which say nowhere.
const COMPATIBLE: u32 = 0x8 | 0x200;
/// Types in directories, extents, tables of groups anywhere.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x200;
/// Large files, huge files, many subdirectories, longer inodes.
const READ_ONLY_COMPATIBLE: u32 = 0x2 | 0x8 | 0x20 | 0x40;
/// All root images of smolvm share the time that e2fsprogs are told: 2024-01-01.
const TIME: u32 = 1_704_067_200;
pub(super) const DESCRIPTOR: usize = 32;

/// The first block.
pub(super) fn first_block(geometry: &Geometry, identity: [u8; 16]) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    let s = &mut block[1024..2048];
    put32(s, 0x00, low32(geometry.inodes()));
    put32(s, 0x04, low32(geometry.blocks));
    put32(s, 0x0c, low32(geometry.blocks - geometry.used_blocks));
    put32(s, 0x10, low32(geometry.inodes() - geometry.used_inodes));
    put32(s, 0x18, 2);
    put32(s, 0x1c, 2);
    put32(s, 0x20, low32(GROUP));
    put32(s, 0x24, low32(GROUP));
    put32(s, 0x28, low32(geometry.inodes_per_group));
    put32(s, 0x30, TIME);
    put16(s, 0x36, 0xffff);
    put16(s, 0x38, 0xef53);
    // Clean; go on after errors, as there is nothing to save.
    put16(s, 0x3a, 1);
    put16(s, 0x3c, 1);
    put32(s, 0x40, TIME);
    put32(s, 0x4c, 1);
    put32(s, 0x54, FIRST_INODE);
    put16(s, 0x58, low16(INODE_LEN as u64));
    put32(s, 0x5c, COMPATIBLE);
    put32(s, 0x60, INCOMPATIBLE);
    put32(s, 0x64, READ_ONLY_COMPATIBLE);
    s[0x68..0x78].copy_from_slice(&identity);
    s[0xec..0xfc].copy_from_slice(&identity);
    s[0xfc] = 1;
    put32(s, 0x108, TIME);
    put16(s, 0x15c, 32);
    put16(s, 0x15e, 32);
    put32(s, 0x160, 1);
    s[0x174] = 12;
    block
}

/// One group's descriptor.
pub(super) fn descriptor(geometry: &Geometry, group: u64, directories: u64) -> [u8; DESCRIPTOR] {
    let mut d = [0; DESCRIPTOR];
    put32(&mut d, 0x00, low32(geometry.block_map(group)));
    put32(&mut d, 0x04, low32(geometry.inode_map(group)));
    put32(&mut d, 0x08, low32(geometry.inode_table(group)));
    put16(&mut d, 0x0c, low16(geometry.blocks_in(group) - geometry.used_blocks_in(group)));
    put16(&mut d, 0x0e, low16(geometry.inodes_per_group - geometry.used_inodes_in(group)));
    put16(&mut d, 0x10, low16(directories));
    d
}
