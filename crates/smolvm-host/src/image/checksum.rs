//! What the files of a snapshot are held against.
//!
//! ```text
//!   blocks of 64 KiB   │ data │ zeros │ data │ …      BLAKE3 of each, by as many threads as there are processors
//!   number ‖ digest    0 ‖ ──┘        2 ‖ ──┘         BLAKE3 of all, and of the length: `blake3:…`
//! ```
//!
//! Blocks of zeros are left out, so it does not matter which of them the file system keeps. What was saved before has one
//! SHA-256 of all blocks (`sha256:…`, [`Digest::of_sparse_file`]), which is still held against it.

use std::fmt;
use std::fs::File;
use std::io::Result;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::block_digest::{BLOCK, BlockDigest, of_blocks};
use super::digest::{Digest, DigestError};
use crate::engine::guest_memory::Counted;
use crate::fsx::{data_blocks, in_pieces};
use crate::threads;

/// Bytes that are read together.
const PIECE: u64 = 4 * BLOCK;
/// More gain nothing: the memory is not faster.
const AT_ONCE: usize = 8;

/// A checksum of a file that is mostly holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of blocks, each with one of its own.
    Blocks(blake3::Hash),
    /// Of all in their order.
    Stream(Digest),
}

impl Checksum {
    /// Reads a file for it.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        // For so little a second thread would begin when the first is done.
        let most = if metadata.blocks() * 512 <= PIECE { 1 } else { AT_ONCE };
        Self::of_ranges(&file, metadata.len(), most, &data_blocks(&file, BLOCK)?, Vec::new())
    }

    /// The same of a file of which a part is counted: that is not read again.
    pub(super) fn of_beside(path: &Path, counted: &Counted) -> Result<Self> {
        let file = File::open(path)?;
        let rest = counted.rest_of(data_blocks(&file, BLOCK)?);
        Self::of_ranges(&file, file.metadata()?.len(), AT_ONCE, &rest, counted.digests().to_vec())
    }

    /// Of what a file has in these ranges, each of which begins with a block, and of blocks that somebody has counted.
    fn of_ranges(file: &File, len: u64, most: usize, ranges: &[Range<u64>], counted: Vec<BlockDigest>) -> Result<Self> {
        let pieces = Mutex::new(ranges.iter().cloned().flat_map(|range| in_pieces(range, PIECE)));
        let found = threads::at_once(most, || {
            let (mut buffer, mut digests) = (vec![0; usize::try_from(PIECE).unwrap_or(0)], Vec::new());
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(range) = next else { return Ok(digests) };
                let bytes = &mut buffer[..usize::try_from(range.end - range.start).unwrap_or(0)];
                file.read_exact_at(bytes, range.start)?;
                digests.extend(of_blocks(range.start, bytes));
            }
        })?;
        let mut blocks: Vec<BlockDigest> = found.into_iter().flatten().chain(counted).collect();
        blocks.sort_unstable_by_key(|(number, _)| *number);
        let mut all = blake3::Hasher::new();
        for (number, digest) in blocks {
            all.update(&number.to_le_bytes()).update(digest.as_bytes());
        }
        Ok(Self::Blocks(all.update(&len.to_le_bytes()).finalize()))
    }

    /// Whether a file is what it was.
    pub(super) fn fits(&self, path: &Path) -> Result<bool> {
        match self {
            Self::Blocks(_) => Self::of(path).map(|seen| seen == *self),
            Self::Stream(digest) => Digest::of_sparse_file(path).map(|seen| seen == *digest),
        }
    }
}

impl FromStr for Checksum {
    type Err = DigestError;

    fn from_str(text: &str) -> std::result::Result<Self, DigestError> {
        match text.strip_prefix("blake3:") {
            Some(hex) => blake3::Hash::from_hex(hex).map(Self::Blocks).map_err(|_| DigestError),
            None => text.parse().map(Self::Stream),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocks(hash) => write!(f, "blake3:{}", hash.to_hex()),
            Self::Stream(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what is saved now, and of what was saved before.
    #[test]
    fn holes_and_zeros_are_the_same_and_places_are_not() {
        holes_and_zeros_are_the_same(Checksum::of);
        holes_and_zeros_are_the_same(|path| Digest::of_sparse_file(path).map(Checksum::Stream));
    }

    fn holes_and_zeros_are_the_same(of: fn(&Path) -> Result<Checksum>) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, at: u64, zeros: bool| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len((1 << 20) + 5).unwrap();
            if zeros {
                file.write_all_at(&vec![0; 1 << 20], 0).unwrap();
            }
            file.write_all_at(b"data", at).unwrap();
            of(&path).unwrap()
        };
        let one = file("a", 100 << 10, false);
        assert_eq!(one, file("b", 100 << 10, true));
        assert_ne!(one, file("c", 200 << 10, false));
        assert_ne!(one, file("d", (1 << 20) + 1, false));
        let shorter = file("e", 100 << 10, false);
        File::options().write(true).open(dir.path().join("e")).unwrap().set_len((1 << 20) + 4).unwrap();
        assert_ne!(of(&dir.path().join("e")).unwrap(), shorter);
    }

    /// Whoever reads it in another way, or by other threads, comes to the same: it lies in manifests.
    #[test]
    fn it_is_what_its_picture_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let noise: Vec<u8> = (0..(3_u32 << 20) + 7).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let file = File::create(&path).unwrap();
        file.write_all_at(&noise, 10 << 20).unwrap();
        let mut all = blake3::Hasher::new();
        for (number, block) in (160_u64..).zip(noise.chunks(64 << 10)) {
            all.update(&number.to_le_bytes()).update(blake3::hash(block).as_bytes());
        }
        all.update(&(noise.len() as u64 + (10 << 20)).to_le_bytes());
        assert_eq!(Checksum::of(&path).unwrap(), Checksum::Blocks(all.finalize()));
        let mut changed = noise.clone();
        for at in [0, 1 << 20, noise.len() - 1] {
            changed[at] ^= 1;
            file.write_all_at(&changed, 10 << 20).unwrap();
            assert_ne!(Checksum::of(&path).unwrap(), Checksum::Blocks(all.finalize()), "{at}");
            changed[at] ^= 1;
        }
    }

    #[test]
    fn both_are_read_as_they_are_written_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "ab").unwrap();
        let old = Checksum::Stream(Digest::of_sparse_file(&path).unwrap());
        for checksum in [Checksum::of(&path).unwrap(), old] {
            assert_eq!(checksum.to_string().parse::<Checksum>(), Ok(checksum.clone()));
            assert!(checksum.fits(&path).unwrap());
        }
        for bad in ["", "blake3:", "blake3:ab", "blake2:ab", &format!("blake3:{}x", "a".repeat(63))] {
            assert_eq!(bad.parse::<Checksum>(), Err(DigestError), "{bad:?}");
        }
    }
}
