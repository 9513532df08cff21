//! A guest's own pages in memory: read while it stands still, written when it runs again.
//!
//! So it never waits for a disk, nor for a file system that is busy with what was written before.

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::large::{Large, Pages};
use super::room::Room;
use super::{AT_ONCE, GuestMemory, Own, Pieces, write_page_wise};
use crate::fsx::{Pace, WriteBehind};
use crate::threads;

/// Pages, and where they belong.
#[derive(Debug)]
pub struct AtRest {
    room: Room,
    /// First byte of each piece of them, and where in the room it lies: both in one order, and without a gap in the room.
    pieces: Vec<(u64, Range<usize>)>,
}

impl AtRest {
    /// Room for so many bytes, which a thread makes.
    pub fn begin(bytes: u64) -> Result<RoomInMaking> {
        let bytes = usize::try_from(bytes).map_err(Error::other)?;
        Ok(RoomInMaking { thread: Builder::new().spawn(move || Room::of(bytes)).ok(), bytes })
    }

    /// What it is for: reading it takes no longer than looking at all of it for what has changed since it was copied ahead. More
    /// would keep the guest waiting.
    pub const MOST: u64 = 128 << 20;

    /// What was read.
    pub fn own(&self) -> Own {
        Own { ranges: self.pieces.iter().map(|(at, place)| *at..*at + place.len() as u64).collect() }
    }

    /// What was read from there; all of it is in one run.
    pub(super) fn bytes_of(&self, range: &Range<u64>) -> &[u8] {
        let piece = self.pieces.partition_point(|(at, _)| *at <= range.start).checked_sub(1).and_then(|index| self.pieces.get(index));
        let place = piece.filter(|(at, place)| range.start - at < place.len() as u64).and_then(|(at, place)| {
            let start = place.start + usize::try_from(range.start - at).ok()?;
            Some(start..start + usize::try_from(range.end - range.start).ok()?)
        });
        place.and_then(|place| self.room.bytes().get(place)).unwrap_or_default()
    }

    /// Reads what the guest has to itself; gives its bytes. If that has come to be more than there is room for, more room is made, while it
    /// stands still; for more than `most` there is none, and nothing is read.
    pub fn read(&mut self, memory: &GuestMemory, most: u64) -> Result<Option<u64>> {
        let (mut places, mut total) = (Pieces::of(memory), 0);
        self.pieces.clear();
        while let Some((at, len)) = places.next()? {
            let end = total + usize::try_from(len).map_err(Error::other)?;
            self.pieces.push((at, total..end));
            total = end;
        }
        if total > self.room.bytes().len() {
            if total as u64 > most {
                self.pieces.clear();
                return Ok(None);
            }
            self.room = Room::of(total);
        }
        let pieces = Mutex::new(split(&self.pieces, self.room.bytes_mut()));
        threads::at_once(AT_ONCE, || {
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, bytes)) = next else { return Ok(()) };
                memory.memory.read_exact_at(bytes, memory.address + at)?;
            }
        })?;
        Ok(Some(total as u64))
    }

    /// Writes what was read over what a file has, which is used, and goes.
    pub fn write(&self, target: &File) -> Result<()> {
        let pieces = self.pieces.iter().map(|(at, place)| (*at, self.room.bytes().get(place.clone()).unwrap_or_default()));
        write_all(pieces, target, |_, _| Ok(()))
    }

    /// Writes what is small of it over what a file has that is to last, and gives the rest, which is on its way.
    ///
    /// One after the other: a file system keeps who writes through its cache from a file that others write past it.
    pub fn write_small(self, target: &File, path: &Path) -> Result<Large> {
        let (pages, pace) = (Pages::of(self, target.try_clone()?, path), Pace::default());
        let behind = Mutex::new(WriteBehind::of(target, &pace));
        write_all(pages.small(), target, |start, end| behind.lock().unwrap_or_else(PoisonError::into_inner).wrote(start, end))?;
        Large::begin(pages)
    }
}

/// It takes some milliseconds to make.
#[derive(Debug)]
pub struct RoomInMaking {
    thread: Option<JoinHandle<Room>>,
    bytes: usize,
}

impl RoomInMaking {
    /// It, once it is there. Where no thread could be had, it is made now.
    pub fn finish(self) -> Result<AtRest> {
        let Self { thread, bytes } = self;
        let room = thread.map_or_else(|| Ok(Room::of(bytes)), |thread| thread.join().map_err(|_| Error::other("a thread ended")))?;
        Ok(AtRest { room, pieces: Vec::new() })
    }
}

fn write_all<'a>(
    pieces: impl Iterator<Item = (u64, &'a [u8])> + Send,
    target: &File,
    wrote: impl Fn(u64, u64) -> Result<()> + Sync,
) -> Result<()> {
    let pieces = Mutex::new(pieces);
    threads::at_once(AT_ONCE, || {
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, bytes)) = next else { return Ok(()) };
            write_page_wise(target, bytes, at)?;
            wrote(at, at + bytes.len() as u64)?;
        }
    })
    .map(drop)
}

/// The room of each piece.
fn split<'a>(pieces: &'a [(u64, Range<usize>)], room: &'a mut [u8]) -> impl Iterator<Item = (u64, &'a mut [u8])> + Send {
    let mut rest = room;
    pieces.iter().map(move |(at, place)| {
        let (piece, further) = std::mem::take(&mut rest).split_at_mut(place.len());
        rest = further;
        (*at, piece)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::TestMap;
    use super::super::{Fate, PAGE, PAGE_LEN};
    use super::*;
    use std::os::unix::fs::FileExt;

    const PAGES: u64 = 4096;

    /// This very process is the hypervisor: a private mapping of a file, some of whose pages it wrote.
    #[test]
    fn what_was_read_at_rest_is_what_is_written_later() {
        let (file, copies) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
        file.set_len(PAGES * PAGE).unwrap();
        file.write_all_at(&[1; PAGE_LEN], 0).unwrap();
        file.write_all_at(&[2; PAGE_LEN], 5 * PAGE).unwrap();
        let map = TestMap::of(&file, PAGES * PAGE);
        map.write(5 * PAGE, &[0; PAGE_LEN]);
        for page in 100..3000 {
            map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
        }
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), PAGES * PAGE).unwrap();
        for (name, room) in [("lasting", 2902), ("passing", 4000)] {
            let path = copies.path().join(name);
            let copy = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            memory.copy_backing(&copy, Fate::Passing).unwrap();
            let mut at_rest = AtRest::begin(room * PAGE).unwrap().finish().unwrap();
            map.write(3500 * PAGE, &[9; PAGE_LEN]);
            assert_eq!(at_rest.read(&memory, 0).unwrap(), Some(2902 * PAGE));
            assert_eq!(at_rest.own().bytes(), 2902 * PAGE);
            // It runs again.
            map.write(200 * PAGE, &[77; PAGE_LEN]);
            map.write(4000 * PAGE, &[77; PAGE_LEN]);
            match name {
                "lasting" => at_rest.write_small(&copy, &path).unwrap().finish().unwrap(),
                _ => at_rest.write(&copy).unwrap(),
            }
            let at = |page: u64| {
                let mut byte = [0];
                copy.read_exact_at(&mut byte, page * PAGE).unwrap();
                byte[0]
            };
            assert_eq!([0, 1, 5, 9, 99, 100, 200, 2999, 3000, 3500, 4000].map(at), [1, 0, 0, 0, 0, 101, 201, 183, 0, 9, 0], "{name}");
            map.write(200 * PAGE, &[201; PAGE_LEN]);
            map.forget(4000 * PAGE);
        }
        let mut small = AtRest::begin(2900 * PAGE).unwrap().finish().unwrap();
        assert_eq!((small.read(&memory, 2901 * PAGE).unwrap(), small.own().bytes()), (None, 0));
        assert_eq!((small.read(&memory, 2902 * PAGE).unwrap(), small.own().bytes()), (Some(2902 * PAGE), 2902 * PAGE));
        let late = tempfile::tempfile().unwrap();
        late.set_len(PAGES * PAGE).unwrap();
        small.write(&late).unwrap();
        let mut byte = [0];
        late.read_exact_at(&mut byte, 2999 * PAGE).unwrap();
        assert_eq!(byte, [183]);
    }

    #[test]
    fn runs_are_put_together_and_their_bytes_found_wherever_they_begin() {
        let mut room = Room::of(6 * PAGE_LEN);
        assert!(room.bytes().as_ptr().align_offset(PAGE_LEN) == 0 && room.bytes().len() == 6 * PAGE_LEN);
        for (number, page) in (1..).zip(room.bytes_mut().chunks_exact_mut(PAGE_LEN)) {
            page.fill(number);
        }
        let piece = |page: u64, from: usize, count: usize| (page * PAGE, from * PAGE_LEN..(from + count) * PAGE_LEN);
        let read = AtRest { room, pieces: vec![piece(10, 0, 2), piece(12, 2, 1), piece(20, 3, 3)] };
        assert_eq!(read.own().runs_of(0), [10 * PAGE..13 * PAGE, 20 * PAGE..23 * PAGE]);
        let firsts =
            |from: u64, to: u64| read.bytes_of(&(from * PAGE..to * PAGE)).chunks_exact(PAGE_LEN).map(|page| page[0]).collect::<Vec<_>>();
        assert_eq!((firsts(10, 13), firsts(11, 13), firsts(21, 23)), (vec![1, 2, 3], vec![2, 3], vec![5, 6]));
        // What was not read is nothing.
        assert_eq!((firsts(0, 1), firsts(22, 25)), (vec![], vec![]));
    }
}
