//! Numbers into blocks, little-endian.

pub(super) fn put16(block: &mut [u8], at: usize, value: u16) {
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// The lower half of a number.
pub(super) fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or_default()
}

/// The lower sixteen bits of a number.
pub(super) fn low16(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or_default()
}
