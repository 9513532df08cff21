//! Digests of a copy's blocks that are known before anybody reads the copy.
//!
//! ```text
//!   large own pages   counted from the memory that they are written from      │
//!   what is behind    counted from the file that it is copied from            │  `Counted`
//!   the rest          small own pages and what is beside them: read in the copy
//! ```

use std::fs::File;
use std::io::{ErrorKind, Result};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CHUNK, Own};
use crate::image::block_digest::{BlockDigest, of_blocks};

/// Blocks of a copy whose digests are known.
#[derive(Debug, Default)]
pub struct Counted {
    /// In whole blocks but for the copy's end; those of zeros have no digest.
    blocks: Own,
    digests: Vec<BlockDigest>,
}

impl Counted {
    pub(super) fn new(blocks: Own, digests: Vec<BlockDigest>) -> Self {
        Self { blocks, digests }
    }

    /// Counts those of a file; with an error as soon as nobody wants them.
    pub(super) fn of_file(file: &File, blocks: Own, unwanted: &AtomicBool) -> Result<Self> {
        let (mut buffer, mut digests) = (vec![0; CHUNK], Vec::new());
        for piece in blocks.pieces(CHUNK as u64) {
            if unwanted.load(Ordering::Relaxed) {
                return Err(ErrorKind::Interrupted.into());
            }
            let bytes = &mut buffer[..usize::try_from(piece.end - piece.start).unwrap_or(0)];
            file.read_exact_at(bytes, piece.start)?;
            digests.extend(of_blocks(piece.start, bytes));
        }
        Ok(Self { blocks, digests })
    }

    /// Both; no block is in the two of them.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.blocks = self.blocks.and(other.blocks);
        self.digests.extend(other.digests);
        self
    }

    /// In any order.
    pub(crate) fn digests(&self) -> &[BlockDigest] {
        &self.digests
    }

    /// What of these blocks of the copy must be read.
    pub(crate) fn rest_of(&self, data: Vec<Range<u64>>) -> Vec<Range<u64>> {
        Own { ranges: data }.without(&self.blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_is_counted_no_further() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 1 << 16], 0).unwrap();
        let count = |unwanted| Counted::of_file(&file, Own::of_all(1 << 16), &AtomicBool::new(unwanted));
        assert_eq!(count(false).unwrap().digests().len(), 1);
        assert_eq!(count(true).unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
