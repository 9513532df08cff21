//! Directories as blocks of entries.

use super::BLOCK_LEN;
use super::bytes::{low16, put16, put32};

const HEADER: usize = 8;

/// One entry: inode, type, name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) inode: u32,
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
}

/// Gives out the blocks of a directory, one by one; its own entries `.` and `..` are among those given.
pub(super) fn blocks<'a, E>(
    entries: impl Iterator<Item = Entry<'a>>,
    mut emit: impl FnMut(&[u8; BLOCK_LEN]) -> Result<(), E>,
) -> Result<(), E> {
    let mut block = [0; BLOCK_LEN];
    let (mut at, mut last) = (0, 0);
    for entry in entries {
        let length = space(entry.name.len());
        if at + length > BLOCK_LEN {
            put16(&mut block, last + 4, low16((BLOCK_LEN - last) as u64));
            emit(&block)?;
            block = [0; BLOCK_LEN];
            at = 0;
        }
        put32(&mut block, at, entry.inode);
        put16(&mut block, at + 4, low16(length as u64));
        block[at + 6] = u8::try_from(entry.name.len()).unwrap_or_default();
        block[at + 7] = entry.kind;
        block[at + HEADER..at + HEADER + entry.name.len()].copy_from_slice(entry.name);
        (last, at) = (at, at + length);
    }
    put16(&mut block, last + 4, low16((BLOCK_LEN - last) as u64));
    emit(&block)
}

/// How many blocks that will be, from the lengths of the names.
pub(super) fn count(names: impl Iterator<Item = usize>) -> u64 {
    let (mut blocks, mut at) = (1, 0);
    for length in names.map(space) {
        if at + length > BLOCK_LEN {
            (blocks, at) = (blocks + 1, 0);
        }
        at += length;
    }
    blocks
}

fn space(name: usize) -> usize {
    (HEADER + name).next_multiple_of(4)
}
