//! The maps of sparse files: GNU's old one in headers, and version 1.0 in front of the content.

use std::io::Read;

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader};

use super::error::{EntryName, LayerError};
use super::member::Part;
use super::pax::decimal;

/// More parts than any file has that somebody meant.
const MAX_PARTS: usize = 65_536;
/// As many as are written, with the one that says where the file ends. With sixteen tebibytes at most, a part takes no more than two numbers of
/// fourteen digits, so the map stays below the mebibyte that programs in Go (podman, docker, skopeo) read of one.
pub const MAX_WRITTEN_PARTS: usize = 1 << 15;
const BLOCK: usize = 512;

/// Parts that ascend, lie within `size`, and of which `stored` bytes are in the stream.
pub(super) fn check(parts: Vec<Part>, size: u64, stored: u64, entry: &EntryName) -> Result<Vec<Part>, LayerError> {
    let mut end = 0;
    let mut sum = 0_u64;
    for part in &parts {
        let next = part.offset.checked_add(part.length).filter(|next| part.offset >= end && *next <= size);
        end = next.ok_or(LayerError::Sparse { entry: entry.clone() })?;
        sum = sum.saturating_add(part.length);
    }
    if sum == stored {
        Ok(parts.into_iter().filter(|part| part.length > 0).collect())
    } else {
        Err(LayerError::Sparse { entry: entry.clone() })
    }
}

/// The map in a header, and in the blocks that follow it.
pub(super) fn old(
    header: &GnuHeader,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK], LayerError>,
    entry: &EntryName,
) -> Result<Vec<Part>, LayerError> {
    let mut parts = Vec::new();
    take(&mut parts, &header.sparse, entry)?;
    let mut more = header.is_extended();
    while more {
        let mut block = GnuExtSparseHeader::new();
        block.as_mut_bytes().copy_from_slice(&next_block()?);
        take(&mut parts, block.sparse(), entry)?;
        more = block.is_extended();
    }
    Ok(parts)
}

fn take(parts: &mut Vec<Part>, headers: &[GnuSparseHeader], entry: &EntryName) -> Result<(), LayerError> {
    for header in headers.iter().filter(|header| !header.is_empty()) {
        let number = |value: std::io::Result<u64>| value.map_err(|_| LayerError::Sparse { entry: entry.clone() });
        parts.push(Part { offset: number(header.offset())?, length: number(header.length())? });
        if parts.len() > MAX_PARTS {
            return Err(LayerError::Sparse { entry: entry.clone() });
        }
    }
    Ok(())
}

/// The map in front of the content: decimal lines, padded to blocks. Gives back how much of the stream it took, too.
pub(super) fn new(content: &mut impl Read, entry: &EntryName) -> Result<(Vec<Part>, u64), LayerError> {
    let mut lines = Lines { content, block: [0; BLOCK], at: BLOCK, taken: 0, entry };
    let count = lines.number()?;
    if count > MAX_PARTS as u64 {
        return Err(LayerError::Sparse { entry: entry.clone() });
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(Part { offset: lines.number()?, length: lines.number()? });
    }
    Ok((parts, lines.taken))
}

/// The way back: what [`new`] reads.
pub(super) fn written(parts: &[Part], size: u64) -> Vec<u8> {
    let end = parts.last().map_or(0, |last| last.offset + last.length);
    // Other programs see from a last part without content that the file ends with a hole.
    let hole = (end < size).then_some(Part { offset: size, length: 0 });
    let mut map = format!("{}\n", parts.len() + usize::from(hole.is_some())).into_bytes();
    for part in parts.iter().copied().chain(hole) {
        map.extend_from_slice(format!("{}\n{}\n", part.offset, part.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

struct Lines<'a, R> {
    content: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
    entry: &'a EntryName,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64, LayerError> {
        let bad = || LayerError::Sparse { entry: self.entry.clone() };
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                self.content.read_exact(&mut self.block).map_err(|_| LayerError::Truncated { entry: self.entry.clone() })?;
                (self.at, self.taken) = (0, self.taken + BLOCK as u64);
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&digits).ok_or_else(bad);
            }
            digits.push(byte);
            if digits.len() > 20 {
                return Err(bad());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stretches;

    #[test]
    fn the_longest_map_that_is_written_is_one_that_others_read() {
        // No longer file is taken.
        let longest = (16 << 40) - BLOCK as u64;
        let apart = 2 * Stretches::SHORTEST;
        let mut stretches = Stretches::of_member();
        for n in 0..MAX_PARTS as u64 {
            stretches.take(longest - (1 << 40) + n * apart, b"x");
        }
        let parts = stretches.into_parts(longest).unwrap();
        let map = written(&parts, longest);
        assert!(map.len() <= 1 << 20, "{} parts take {} bytes", parts.len(), map.len());
        let (read, taken) = new(&mut &map[..], &EntryName::of(b"a")).unwrap();
        assert_eq!((read.len(), taken), (MAX_WRITTEN_PARTS, map.len() as u64));
    }
}
