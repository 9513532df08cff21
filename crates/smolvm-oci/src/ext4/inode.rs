//! One inode's 256 bytes.

use super::bytes::{low16, low32, put16, put32};
use super::{BLOCK, INODE_LEN};
use crate::layer::Time;
use crate::tree::{Content, Node};

const EXTENTS: u32 = 0x8_0000;
/// More subdirectories than a link count holds are said to be one.
const MAX_LINKS: u64 = 65_000;

/// What an inode says beside what its node says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) size: u64,
    /// Blocks it occupies, its tree and its attributes included.
    pub(super) blocks: u64,
    pub(super) links: u64,
    /// Its extents, its target, or its device numbers.
    pub(super) place: [u8; 60],
    pub(super) has_extents: bool,
    /// The block with its attributes.
    pub(super) attributes: u64,
}

/// The type in a mode, and in a directory entry.
pub(super) fn kind(content: &Content) -> (u16, u8) {
    match content {
        Content::File { .. } => (0o100_000, 1),
        Content::Directory(_) => (0o040_000, 2),
        Content::Char { .. } => (0o020_000, 3),
        Content::Block { .. } => (0o060_000, 4),
        Content::Fifo => (0o010_000, 5),
        Content::Symlink(_) => (0o120_000, 7),
    }
}

/// Device numbers where an inode has its extents.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut place = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut place, 0, major << 8 | minor);
    } else {
        put32(&mut place, 4, (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12));
    }
    place
}

pub(super) fn encode(node: &Node, facts: &Facts) -> [u8; INODE_LEN] {
    let mut inode = [0; INODE_LEN];
    let meta = &node.meta;
    // Links have no rights of their own, and the kernel shows all.
    let mode = if matches!(node.content, Content::Symlink(_)) { 0o777 } else { meta.mode };
    put16(&mut inode, 0x00, kind(&node.content).0 | mode);
    put16(&mut inode, 0x02, low16(meta.uid.into()));
    put32(&mut inode, 0x04, low32(facts.size));
    let (seconds, extra) = time(meta.mtime);
    for (at, more) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
        put32(&mut inode, at, seconds);
        put32(&mut inode, more, extra);
    }
    put16(&mut inode, 0x18, low16(meta.gid.into()));
    put16(&mut inode, 0x1a, low16(if facts.links > MAX_LINKS { 1 } else { facts.links }));
    let sectors = facts.blocks * (BLOCK / 512);
    put32(&mut inode, 0x1c, low32(sectors));
    put32(&mut inode, 0x20, if facts.has_extents { EXTENTS } else { 0 });
    inode[0x28..0x64].copy_from_slice(&facts.place);
    put32(&mut inode, 0x68, low32(facts.attributes));
    put32(&mut inode, 0x6c, low32(facts.size >> 32));
    put16(&mut inode, 0x74, low16(sectors >> 32));
    put16(&mut inode, 0x76, low16(facts.attributes >> 32));
    put16(&mut inode, 0x78, low16(u64::from(meta.uid) >> 16));
    put16(&mut inode, 0x7a, low16(u64::from(meta.gid) >> 16));
    put16(&mut inode, 0x80, 32);
    inode
}

/// Seconds in 32 bits with a sign; two bits more and the nanoseconds in the other word.
fn time(time: Time) -> (u32, u32) {
    // 1901 to 2446: what lies outside is at its end.
    let seconds = time.seconds.clamp(i64::from(i32::MIN), 0x3_7fff_ffff);
    let low = low32(seconds.cast_unsigned());
    let epoch = low32(((seconds - i64::from(low.cast_signed())) >> 32).cast_unsigned()) & 3;
    (low, (time.nanoseconds.min(999_999_999) << 2) | epoch)
}
