//! The LZ4 legacy frame that kernels are packed in: magic, then blocks of at most 8 MiB, then the
//! length of the whole, which the kernel's build appends.

/// The frame's magic, little-endian.
pub(super) const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// A block unpacks to this, the last one to less.
const BLOCK: usize = 8 << 20;
/// A packed block may be this much longer than what it holds, when that does not pack.
const BLOCK_PACKED_CAP: usize = BLOCK + BLOCK / 255 + 16;
/// A `vmlinux` has some 50 MiB; a header that asks for more than this is wrong.
const TOTAL_CAP: usize = 256 << 20;

/// Why a frame cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Lz4Error {
    /// It does not begin with the magic, or ends before the length.
    #[error("it is not an LZ4 legacy frame")]
    NotAFrame,
    /// The length at the end is out of all proportion.
    #[error("it claims to unpack to {claimed} bytes")]
    TooLarge {
        /// The length it states.
        claimed: usize,
    },
    /// A block's length leads outside the frame.
    #[error("the block at byte {at} is cut off")]
    CutOff {
        /// Where the block begins.
        at: usize,
    },
    /// A block is not LZ4.
    #[error("the block at byte {at} does not unpack")]
    Block {
        /// Where the block begins.
        at: usize,
        /// What the decoder says.
        source: lz4_flex::block::DecompressError,
    },
    /// The blocks hold less than the length at the end says.
    #[error("it unpacks to {found} bytes, not {claimed}")]
    Short {
        /// The length it states.
        claimed: usize,
        /// What came out.
        found: usize,
    },
}

/// Unpacks a frame with its appended length.
pub(super) fn unpack(frame: &[u8]) -> Result<Vec<u8>, Lz4Error> {
    let (blocks, length) = frame.split_last_chunk::<4>().ok_or(Lz4Error::NotAFrame)?;
    let blocks = blocks.strip_prefix(&MAGIC).ok_or(Lz4Error::NotAFrame)?;
    let claimed = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if claimed > TOTAL_CAP {
        return Err(Lz4Error::TooLarge { claimed });
    }
    // Zeroed memory is not touched until something is unpacked into it, so a lie costs nothing.
    let mut out = vec![0; claimed];
    let (mut filled, mut rest) = (0, blocks);
    while !rest.is_empty() {
        let at = MAGIC.len() + (blocks.len() - rest.len());
        let (packed, after) = block(rest).ok_or(Lz4Error::CutOff { at })?;
        let room = claimed.min(filled + BLOCK);
        filled += lz4_flex::block::decompress_into(packed, &mut out[filled..room]).map_err(|source| Lz4Error::Block { at, source })?;
        rest = after;
    }
    if filled == claimed { Ok(out) } else { Err(Lz4Error::Short { claimed, found: filled }) }
}

/// One block and what comes after it.
fn block(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| (1..=BLOCK_PACKED_CAP).contains(length))?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(content: &[u8]) -> Vec<u8> {
        let mut frame = MAGIC.to_vec();
        for chunk in content.chunks(BLOCK) {
            let packed = lz4_flex::block::compress(chunk);
            frame.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            frame.extend(packed);
        }
        frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        frame
    }

    #[test]
    fn what_was_packed_comes_out() {
        let content: Vec<u8> = (0..BLOCK + 12345).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        for size in [0, 1, 4096, content.len()] {
            assert_eq!(unpack(&pack(&content[..size])).unwrap(), &content[..size]);
        }
    }

    #[test]
    fn lies_are_told_apart() {
        let good = pack(b"hello hello hello hello hello hello");
        let with_length = |length: u32| {
            let mut frame = good.clone();
            let at = frame.len() - 4;
            frame[at..].copy_from_slice(&length.to_le_bytes());
            frame
        };
        assert!(matches!(unpack(b""), Err(Lz4Error::NotAFrame)));
        assert!(matches!(unpack(b"\x28\xb5\x2f\xfdxxxx"), Err(Lz4Error::NotAFrame)));
        assert!(matches!(unpack(&with_length(u32::MAX)), Err(Lz4Error::TooLarge { .. })));
        assert!(matches!(unpack(&with_length(99)), Err(Lz4Error::Short { claimed: 99, found: 35 })));
        assert!(matches!(unpack(&with_length(5)), Err(Lz4Error::Block { at: 4, .. })));
        for length in [0, u32::MAX, 1000] {
            let mut frame = good.clone();
            frame[4..8].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(unpack(&frame), Err(Lz4Error::CutOff { at: 4 })), "{length}");
        }
        assert!(unpack(&good[..good.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), length in 0_u32..70_000) {
            let _ = unpack(&bytes);
            bytes.splice(0..0, MAGIC);
            bytes.extend(length.to_le_bytes());
            let _ = unpack(&bytes);
        }

        #[test]
        fn no_flipped_bit_panics(at in 0_usize..200, bit in 0_u8..8) {
            let content: Vec<u8> = (0_u8..=255).cycle().take(2000).collect();
            let mut frame = pack(&content);
            let at = at % frame.len();
            frame[at] ^= 1 << bit;
            let _ = unpack(&frame);
        }
    }
}
