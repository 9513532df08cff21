//! Digests of a file's blocks, of which its checksum is made ([`super::checksum`]): whoever has a block at hand can count its own.

/// Bytes that have a digest of their own.
pub(crate) const BLOCK: u64 = 64 << 10;

/// The number of a block, and its digest.
pub(crate) type BlockDigest = (u64, blake3::Hash);

/// The digests of those blocks that are not of zeros. `at` is where the first begins.
pub(crate) fn of_blocks(at: u64, bytes: &[u8]) -> impl Iterator<Item = BlockDigest> {
    let blocks = bytes.chunks(usize::try_from(BLOCK).unwrap_or(1));
    (at / BLOCK..).zip(blocks).filter(|(_, block)| !are_zeros(block)).map(|(number, block)| (number, blake3::hash(block)))
}

/// Blocks of zeros are holes, or as good as that.
pub(crate) fn are_zeros(block: &[u8]) -> bool {
    static ZEROS: [u8; 4096] = [0; 4096];
    block.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}
