//! Where a file has data, and where it has a hole.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// The next stretch of data, from here on; nothing where only a hole is left.
pub(crate) fn data_from(file: &File, at: u64) -> io::Result<Option<Range<u64>>> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Some(start..seek(file, SeekFrom::Hole(start))?))
}

/// Where a file has data, in whole blocks but for its end, in their order. It may grow meanwhile: what is new is left out.
pub(crate) fn data_blocks(file: &File, block: u64) -> io::Result<Vec<Range<u64>>> {
    let (len, mut found, mut at) = (file.metadata()?.len(), Vec::<Range<u64>>::new(), 0);
    while let Some(data) = data_from(file, at)?.filter(|data| data.start < len) {
        let (start, end) = (data.start / block * block, data.end.next_multiple_of(block).min(len));
        at = end;
        match found.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ => found.push(start..end),
        }
    }
    Ok(found)
}

/// A range in pieces of so many bytes, but for the last.
pub(crate) fn in_pieces(range: Range<u64>, bytes: u64) -> impl Iterator<Item = Range<u64>> + Send {
    let end = range.end;
    (range.start..end).step_by(usize::try_from(bytes).unwrap_or(usize::MAX)).map(move |at| at..end.min(at + bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn blocks_that_touch_are_one_range_and_the_end_is_the_files() {
        const BLOCK: u64 = 64 << 10;
        let file = tempfile::tempfile().unwrap();
        file.set_len(20 * BLOCK + 5).unwrap();
        assert_eq!(data_blocks(&file, BLOCK).unwrap(), []);
        for at in [3 * BLOCK + 9, 4 * BLOCK - 1, 5 * BLOCK - 1, 9 * BLOCK, 20 * BLOCK + 4] {
            file.write_all_at(b"x", at).unwrap();
        }
        let found = data_blocks(&file, BLOCK).unwrap();
        assert_eq!(found, [3 * BLOCK..5 * BLOCK, 9 * BLOCK..10 * BLOCK, 20 * BLOCK..20 * BLOCK + 5]);
        let pieces: Vec<_> = in_pieces(3 * BLOCK..5 * BLOCK + 1, BLOCK).collect();
        assert_eq!(pieces, [3 * BLOCK..4 * BLOCK, 4 * BLOCK..5 * BLOCK, 5 * BLOCK..5 * BLOCK + 1]);
    }
}
