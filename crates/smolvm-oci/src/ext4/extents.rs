//! Where a file's content lies: stretches, in the inode if they are few, in a tree of blocks if they are many.

use super::bytes::{low16, low32, put16, put32};
use super::layout::Run;
use super::{BLOCK, BLOCK_LEN};

const MAGIC: u16 = 0xf30a;
/// Room in an inode, and in a block.
pub(super) const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK_LEN - 12) / 12;
/// Longest stretch that one entry says.
pub(super) const MAX_LENGTH: u64 = 32_768;

/// How many entries say a stretch of so many blocks.
pub(super) fn entries(blocks: u64) -> usize {
    usize::try_from(blocks.div_ceil(MAX_LENGTH)).unwrap_or(usize::MAX)
}

/// Stretches that no entry is too short for.
pub(super) fn split(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut parts = Vec::new();
    for mut run in runs {
        while run.length > 0 {
            let length = run.length.min(MAX_LENGTH);
            parts.push(Run { length, ..run });
            run = Run { logical: run.logical + length, physical: run.physical + length, length: run.length - length };
        }
    }
    parts
}

/// How many blocks the tree needs beside the inode.
pub(super) fn tree_blocks(parts: usize) -> u64 {
    let (mut entries, mut blocks) = (parts, 0);
    while entries > IN_INODE {
        entries = entries.div_ceil(IN_BLOCK);
        blocks += entries as u64;
    }
    blocks
}

/// What stands in the inode, and the blocks of the tree, which lie from `first` on.
pub(super) fn encode(parts: &[Run], first: u64) -> ([u8; 60], Vec<[u8; BLOCK_LEN]>) {
    let mut blocks = Vec::new();
    let mut level: Vec<[u8; 12]> = parts.iter().map(leaf).collect();
    let mut starts: Vec<u64> = parts.iter().map(|run| run.logical).collect();
    let mut depth = 0;
    while level.len() > IN_INODE {
        let (mut above, mut above_starts) = (Vec::new(), Vec::new());
        for (entries, start) in level.chunks(IN_BLOCK).zip(starts.chunks(IN_BLOCK)) {
            let mut block = [0; BLOCK_LEN];
            fill(&mut block, entries, IN_BLOCK, depth);
            above.push(index(start[0], first + blocks.len() as u64));
            above_starts.push(start[0]);
            blocks.push(block);
        }
        (level, starts, depth) = (above, above_starts, depth + 1);
    }
    let mut root = [0; 60];
    fill(&mut root, &level, IN_INODE, depth);
    (root, blocks)
}

fn fill(place: &mut [u8], entries: &[[u8; 12]], room: usize, depth: u16) {
    put16(place, 0, MAGIC);
    put16(place, 2, low16(entries.len() as u64));
    put16(place, 4, low16(room as u64));
    put16(place, 6, depth);
    for (entry, at) in entries.iter().zip((12..).step_by(12)) {
        place[at..at + 12].copy_from_slice(entry);
    }
}

fn leaf(run: &Run) -> [u8; 12] {
    let mut entry = [0; 12];
    put32(&mut entry, 0, low32(run.logical));
    put16(&mut entry, 4, low16(run.length));
    put16(&mut entry, 6, low16(run.physical >> 32));
    put32(&mut entry, 8, low32(run.physical));
    entry
}

fn index(logical: u64, block: u64) -> [u8; 12] {
    let mut entry = [0; 12];
    put32(&mut entry, 0, low32(logical));
    put32(&mut entry, 4, low32(block));
    put16(&mut entry, 8, low16(block >> 32));
    entry
}

/// Blocks that so many bytes touch.
pub(super) fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}
