//! What of a file is content.

use crate::ext4::BLOCK;
use crate::layer::Part;

/// What a stretch takes for a moment beside itself: a run (24), its entry (12), where that begins (8), and its place in a block (12).
const PLACED: usize = 56;

/// What of a file is not zeros, in whole blocks: the last one may end behind the file. Nearly every file is content from its beginning to
/// its end, and that takes no memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Data {
    /// Nothing of it.
    #[default]
    Nothing,
    /// All of it.
    Whole,
    /// These stretches, in order.
    Parts(Box<[Part]>),
}

impl Data {
    /// Of a file of this length.
    pub(super) fn of(parts: Vec<Part>, size: u64) -> Self {
        match parts[..] {
            [] => Self::Nothing,
            [part] if part == whole(size) => Self::Whole,
            _ => Self::Parts(parts.into_boxed_slice()),
        }
    }

    /// Whether all of the file is zeros.
    pub fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }

    /// The stretches of a file of this length.
    pub fn parts(&self, size: u64) -> impl Iterator<Item = Part> {
        let (one, many) = match self {
            Self::Nothing => (None, &[][..]),
            Self::Whole => (Some(whole(size)), &[][..]),
            Self::Parts(parts) => (None, &parts[..]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// Bytes of memory beside its own, and what is needed beside them when its file is placed and written.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Nothing | Self::Whole => 0,
            Self::Parts(parts) => parts.len() * (size_of::<Part>() + PLACED),
        }
    }
}

fn whole(size: u64) -> Part {
    Part { offset: 0, length: size.next_multiple_of(BLOCK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_comes_back_as_it_went_in() {
        let part = |offset, length| Part { offset, length };
        for (size, parts) in [
            (0, vec![]),
            (1, vec![part(0, BLOCK)]),
            (BLOCK, vec![part(0, BLOCK)]),
            (3 * BLOCK, vec![part(0, BLOCK)]),
            (3 * BLOCK, vec![part(0, BLOCK), part(2 * BLOCK, BLOCK)]),
        ] {
            let data = Data::of(parts.clone(), size);
            assert_eq!(data.parts(size).collect::<Vec<_>>(), parts);
            assert_eq!(data.is_nothing(), parts.is_empty());
        }
        assert_eq!(Data::of(vec![part(0, 2 * BLOCK)], BLOCK + 1), Data::Whole);
    }
}
