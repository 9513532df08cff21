//! Which pages: places in a guest's memory, and what can be asked about two such sets.

use std::ops::Range;

use crate::fsx::in_pieces;
use crate::image::block_digest::BLOCK;

/// Pages that the guest had to itself at one moment.
#[derive(Debug, Default, Clone)]
pub struct Own {
    /// Where they are, in bytes, in their order.
    pub(super) ranges: Vec<Range<u64>>,
}

impl Own {
    /// How much that is.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// All of so much memory.
    pub(super) fn of_all(bytes: u64) -> Self {
        Self { ranges: std::iter::once(0..bytes).collect() }
    }

    /// In pieces of so many bytes at most.
    pub(super) fn pieces(&self, most: u64) -> impl Iterator<Item = Range<u64>> + Send {
        self.ranges.iter().cloned().flat_map(move |range| in_pieces(range, most))
    }

    /// What of it is so much without a gap.
    pub(super) fn runs_of(&self, least: u64) -> Vec<Range<u64>> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in &self.ranges {
            match runs.last_mut() {
                Some(run) if run.end == range.start => run.end = range.end,
                _ => runs.push(range.clone()),
            }
        }
        runs.retain(|run| run.end - run.start >= least);
        runs
    }

    /// What of it is whole blocks.
    pub(super) fn whole_blocks(&self) -> Self {
        let whole = |run: Range<u64>| run.start.next_multiple_of(BLOCK)..run.end / BLOCK * BLOCK;
        Self { ranges: self.runs_of(BLOCK).into_iter().map(whole).filter(|run| run.start < run.end).collect() }
    }

    /// All blocks that have some of it.
    pub(super) fn blocks(&self) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in &self.ranges {
            let (start, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK));
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => ranges.push(start..end),
            }
        }
        Self { ranges }
    }

    /// Both, of which no page is in the two of them.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.ranges.extend(other.ranges);
        self.ranges.sort_unstable_by_key(|range| range.start);
        self
    }

    /// What of it is in another, too.
    pub(super) fn within(&self, other: &Self) -> Self {
        let gone = Self { ranges: self.without(other).collect() };
        Self { ranges: self.without(&gone).collect() }
    }

    /// What of it is not in another.
    pub(super) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Range<u64>> + 'a {
        self.ranges.iter().flat_map(|range| {
            let first = other.ranges.partition_point(|kept| kept.end <= range.start);
            let kept = other.ranges[first..].iter().take_while(|kept| kept.start < range.end);
            let ends = kept.clone().map(|kept| kept.start).chain([range.end]);
            let starts = std::iter::once(range.start).chain(kept.map(|kept| kept.end));
            starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(ranges: &[(u64, u64)]) -> Own {
        Own { ranges: ranges.iter().map(|(start, end)| *start..*end).collect() }
    }

    fn seen(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<(u64, u64)> {
        ranges.into_iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn what_is_in_one_and_not_in_the_other_and_in_both() {
        let left = |one: &[(u64, u64)], other: &[(u64, u64)]| seen(own(one).without(&own(other)));
        assert_eq!(left(&[(0, 10), (20, 30)], &[]), [(0, 10), (20, 30)]);
        assert_eq!(left(&[(0, 10), (20, 30)], &[(0, 40)]), []);
        assert_eq!(left(&[(0, 10), (20, 30)], &[(2, 4), (6, 7), (9, 22), (28, 50)]), [(0, 2), (4, 6), (7, 9), (22, 28)]);
        assert_eq!(left(&[(5, 6)], &[(0, 5), (6, 9)]), [(5, 6)]);
        let both = |one: &[(u64, u64)], other: &[(u64, u64)]| seen(own(one).within(&own(other)).ranges);
        assert_eq!(both(&[(0, 10), (20, 30)], &[(2, 4), (6, 7), (9, 22), (28, 50)]), [(2, 4), (6, 7), (9, 10), (20, 22), (28, 30)]);
        assert_eq!(both(&[(0, 10)], &[]), []);
        assert_eq!(both(&Vec::from([(0, 10)]), &[(0, 20)]), [(0, 10)]);
        assert_eq!(seen(own(&[(5, 6), (9, 10)]).and(own(&[(0, 1), (7, 8)])).ranges), [(0, 1), (5, 6), (7, 8), (9, 10)]);
    }

    #[test]
    fn what_touches_is_one_run_and_blocks_are_whole() {
        let pages = own(&[(0, BLOCK), (BLOCK, 2 * BLOCK), (3 * BLOCK - 4096, 4 * BLOCK), (9 * BLOCK + 1, 9 * BLOCK + 2)]);
        assert_eq!(seen(pages.runs_of(BLOCK + 4096)), [(0, 2 * BLOCK), (3 * BLOCK - 4096, 4 * BLOCK)]);
        assert_eq!(seen(pages.whole_blocks().ranges), [(0, 2 * BLOCK), (3 * BLOCK, 4 * BLOCK)]);
        assert_eq!(seen(pages.blocks().ranges), [(0, 4 * BLOCK), (9 * BLOCK, 10 * BLOCK)]);
        assert_eq!(seen(own(&[(1, 2 * BLOCK - 1)]).whole_blocks().ranges), []);
        assert_eq!(seen(own(&[(3, 10), (20, 21)]).pieces(4)), [(3, 7), (7, 10), (20, 21)]);
        assert_eq!(Own::of_all(7).bytes(), 7);
    }
}
