//! What of a file is content, and what is a hole.

use crate::ext4::BLOCK;
use crate::layer::{MAX_WRITTEN_PARTS, Part};

const ZEROS: [u8; 4096] = [0; 4096];
/// With holes between them a file of so many has 17 GiB.
const MOST_OF_FILE: usize = 256 << 10;
/// Shorter holes are not worth an extent: 64 KiB.
const HOLE: u64 = 16;

/// Which blocks of a file are not all zeros; short runs of zeros count as content. Whether somebody wrote the zeros or left a hole makes
/// no difference: the same content has the same stretches.
#[derive(Debug)]
pub struct Stretches {
    parts: Vec<Part>,
    most: usize,
    bytes: u64,
}

impl Stretches {
    /// Shortest file in which there can be a hole.
    pub const SHORTEST: u64 = HOLE * BLOCK;

    /// Of a file of an image: as many as there are, but for files whose map would take more memory than many thousand others. There the last
    /// one is all the rest.
    pub fn of_file() -> Self {
        Self { parts: Vec::new(), most: MOST_OF_FILE, bytes: 0 }
    }

    /// As many as a member gets: the last one is all the rest.
    pub fn of_member() -> Self {
        // The map of a member may need one more, which says where the file ends.
        Self { most: MAX_WRITTEN_PARTS - 1, ..Self::of_file() }
    }

    /// Looks at bytes of the file; they come in order, and what does not come is zeros.
    pub fn take(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let to_next = usize::try_from(BLOCK - offset % BLOCK).unwrap_or_default();
            let (block, rest) = bytes.split_at(to_next.min(bytes.len()));
            if *block != ZEROS[..block.len()] {
                self.mark(offset / BLOCK);
            }
            (offset, bytes) = (offset + block.len() as u64, rest);
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In whole blocks: the last one may end behind the file.
    pub fn into_blocks(self) -> Vec<Part> {
        self.parts
    }

    /// Within a file of this length; nothing if there is no hole in it.
    pub fn into_parts(mut self, size: u64) -> Option<Vec<Part>> {
        if let Some(first) = self.parts.first_mut().filter(|first| first.offset < Self::SHORTEST) {
            *first = Part { offset: 0, length: first.offset + first.length };
        }
        if let Some(last) = self.parts.last_mut().filter(|last| last.offset + last.length + Self::SHORTEST > size) {
            last.length = size.saturating_sub(last.offset);
        }
        let whole = Part { offset: 0, length: size };
        if self.parts == [whole] { None } else { Some(self.parts) }
    }

    fn mark(&mut self, block: u64) {
        let is_full = self.parts.len() >= self.most;
        if let Some(last) = self.parts.last_mut() {
            let end = (last.offset + last.length) / BLOCK;
            if block < end + HOLE || is_full {
                let length = last.length.max((block + 1) * BLOCK - last.offset);
                self.bytes += length - last.length;
                last.length = length;
                return;
            }
        }
        self.bytes += BLOCK;
        self.parts.push(Part { offset: block * BLOCK, length: BLOCK });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_no_more_of_them_than_its_map_may_have() {
        let mut stretches = Stretches::of_member();
        let count = MAX_WRITTEN_PARTS as u64 + 10;
        for n in 0..count {
            stretches.take(n << 20, b"x");
        }
        assert_eq!(stretches.bytes(), (MAX_WRITTEN_PARTS as u64 - 2) * BLOCK + (11 << 20) + BLOCK);
        let parts = stretches.into_parts(count << 20).unwrap();
        assert_eq!(parts.len(), MAX_WRITTEN_PARTS - 1);
        let last = parts[parts.len() - 1];
        assert_eq!(last.offset + last.length, ((count - 1) << 20) + BLOCK, "the last one is all the rest");
    }

    #[test]
    fn nor_has_a_file_of_an_image_without_end() {
        let mut stretches = Stretches::of_file();
        let count = MOST_OF_FILE as u64 + 10;
        (0..count).for_each(|n| stretches.take(n << 20, b"x"));
        let parts = stretches.into_blocks();
        let last = parts[parts.len() - 1];
        assert_eq!((parts.len(), last.offset + last.length), (MOST_OF_FILE, ((count - 1) << 20) + BLOCK));
    }

    #[test]
    fn short_holes_at_either_end_are_none() {
        let size = 3 * Stretches::SHORTEST;
        let of = |offsets: &[u64]| {
            let mut stretches = Stretches::of_member();
            for offset in offsets {
                stretches.take(*offset, b"x");
            }
            stretches.into_parts(size)
        };
        let short = Stretches::SHORTEST - BLOCK;
        assert_eq!(of(&[short, 2 * short, size - 2 * BLOCK]), None);
        assert_eq!(of(&[]), Some(vec![]));
        assert_eq!(of(&[Stretches::SHORTEST]), Some(vec![Part { offset: Stretches::SHORTEST, length: BLOCK }]));
    }
}
