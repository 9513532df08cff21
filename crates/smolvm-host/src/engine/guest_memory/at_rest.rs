//! A guest's own pages in memory: read while it stands still, written when it runs again.
//!
//! So it never waits for a file system that is busy with what was written before, and for a disk only where that is quick ([`Lane`]).

use std::fs::File;
use std::io::{Error, Result};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::backing::BackingCopy;
use super::counted::Counted;
use super::large::{Buffers, Lane, Stream};
use super::room::Room;
use super::{AT_ONCE, CHUNK, GuestMemory, Own, write_page_wise};
use crate::fsx::WriteBehind;
use crate::threads;

/// Making so much in small pages takes as long as 128 MiB in large ones.
const LITTLE: usize = 20 << 20;

/// Pages, and where they belong.
#[derive(Debug)]
pub struct AtRest {
    room: Room,
    /// First byte of each piece of them, and where in the room it lies: both in one order, and without a gap in the room.
    pieces: Vec<(u64, Range<usize>)>,
    /// What is large goes this way.
    lane: Option<(Lane, Buffers)>,
    stream: Option<Stream>,
}

impl AtRest {
    /// Room for so many bytes, which a thread makes, beside those that go by a lane.
    pub fn begin(bytes: u64, lane: Option<Lane>) -> Result<RoomInMaking> {
        let (bytes, beside) = (usize::try_from(bytes).map_err(Error::other)?, lane.is_some());
        Ok(RoomInMaking { thread: Builder::new().spawn(move || make_room(bytes, beside)).ok(), bytes, lane })
    }

    /// What it is for: reading it takes no longer than looking at all of it for what has changed since it was copied ahead. More
    /// would keep the guest waiting.
    pub const MOST: u64 = 128 << 20;

    /// What was read.
    pub fn own(&self) -> Own {
        let past = self.stream.iter().flat_map(|stream| stream.own().ranges.clone());
        let read = self.pieces.iter().map(|(at, place)| *at..*at + place.len() as u64);
        let mut ranges: Vec<Range<u64>> = read.chain(past).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        Own { ranges }
    }

    /// Reads what the guest has to itself; gives its bytes. If that has come to be more than there is room for, more room is made, while it
    /// stands still; for more than `most` there is none, and nothing is read.
    ///
    /// What is behind it and has not been copied yet (`backing`) goes the way past the cache, too, where there is one.
    pub fn read(&mut self, memory: &GuestMemory, most: u64, backing: Option<&mut BackingCopy>) -> Result<Option<u64>> {
        self.pieces.clear();
        self.stream = None;
        // It ends while the guest's pages are looked for.
        let backing = backing.filter(|_| self.lane.is_some());
        if let Some(backing) = &backing {
            backing.ask_to_end();
        }
        let own = memory.own()?;
        let past = self.lane.as_ref().map_or(Own::default(), |(lane, _)| lane.takes(&own));
        let (mut places, mut total) = (Vec::new(), 0);
        let beside = Own { ranges: own.without(&past).collect() };
        for range in beside.pieces(CHUNK as u64) {
            let end = total + usize::try_from(range.end - range.start).map_err(Error::other)?;
            places.push((range.start, total..end));
            total = end;
        }
        let grown = total > self.room.bytes().len();
        if grown && own.bytes() > most {
            return Ok(None);
        }
        let behind = backing.map(BackingCopy::hand_over).transpose()?.flatten();
        if let Some(lane) = self.lane.take() {
            self.stream = Some(Stream::begin(memory, lane, &own, behind)?);
        }
        self.pieces = places;
        if grown {
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
        self.stream.as_mut().map_or(Ok(()), Stream::all_read)?;
        Ok(Some(own.bytes()))
    }

    /// Writes what was read over what a file has, which is used, and goes.
    pub fn write(&self, target: &File) -> Result<()> {
        write_all(self.read_pieces(), target, |_, _| Ok(()))
    }

    /// Writes it over what a file has that is to last, and what is behind it, which has waited. Gives the digests that nobody needs to count again.
    ///
    /// First what goes past the cache: a file system keeps who writes through its cache from a file that others write past it. And room that
    /// was made for it is given back only before others write there.
    pub fn write_lasting(mut self, target: &File, backing: Option<BackingCopy>) -> Result<Counted> {
        self.stream.as_mut().map_or(Ok(()), Stream::all_written)?;
        let taken = self.stream.as_ref().map(Stream::behind).unwrap_or_default();
        backing.map_or(Ok(()), |backing| backing.finish(&self.own(), &taken))?;
        let disk = Mutex::new(WriteBehind::of(target));
        write_all(self.read_pieces(), target, |start, end| disk.lock().unwrap_or_else(PoisonError::into_inner).wrote(start, end))?;
        self.stream.take().map_or_else(|| Ok(Counted::default()), Stream::into_counted)
    }

    fn read_pieces(&self) -> impl Iterator<Item = (u64, &[u8])> + Send {
        self.pieces.iter().map(|(at, place)| (*at, self.room.bytes().get(place.clone()).unwrap_or_default()))
    }
}

/// It takes some milliseconds to make.
#[derive(Debug)]
pub struct RoomInMaking {
    thread: Option<JoinHandle<(Room, Buffers)>>,
    bytes: usize,
    lane: Option<Lane>,
}

impl RoomInMaking {
    /// It, once it is there. Where no thread could be had, it is made now.
    pub fn finish(self) -> Result<AtRest> {
        let Self { thread, bytes, lane } = self;
        let made = thread.map(|thread| thread.join().map_err(|_| Error::other("a thread ended"))).transpose()?;
        let (room, buffers) = made.unwrap_or_else(|| make_room(bytes, lane.is_some()));
        Ok(AtRest { room, pieces: Vec::new(), lane: lane.map(|lane| (lane, buffers)), stream: None })
    }
}

/// Little beside what goes past the cache is made in small pages, which are there at once.
fn make_room(bytes: usize, beside: bool) -> (Room, Buffers) {
    let room = if beside && bytes <= LITTLE { Room::in_small_pages(bytes) } else { Room::of(bytes) };
    (room, if beside { Buffers::make() } else { Buffers::default() })
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
    use crate::fsx::data_blocks;
    use crate::image::block_digest::{BLOCK, of_blocks};
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    const PAGES: u64 = 4096;

    /// This very process is the hypervisor: a private mapping of a file, some of whose pages it wrote.
    #[test]
    fn what_was_read_at_rest_is_what_is_written_later() {
        let (file, copies) = (tempfile::tempfile().unwrap(), tempfile::tempdir().unwrap());
        file.set_len(PAGES * PAGE).unwrap();
        file.write_all_at(&[1; PAGE_LEN], 0).unwrap();
        file.write_all_at(&[2; PAGE_LEN], 5 * PAGE).unwrap();
        // Behind what is large.
        file.write_all_at(&[3; 2 * PAGE_LEN], 1000 * PAGE).unwrap();
        let map = TestMap::of(&file, PAGES * PAGE);
        map.write(5 * PAGE, &[0; PAGE_LEN]);
        for page in 100..3000 {
            map.write(page * PAGE, &[page.to_le_bytes()[0] | 1; PAGE_LEN]);
        }
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), PAGES * PAGE).unwrap();
        for (fate, room) in [(Fate::Lasting, 60), (Fate::Passing, 4000)] {
            let path = copies.path().join(format!("{fate:?}"));
            let copy = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            let mut backing = BackingCopy::begin(&memory, &copy, fate, &memory.pages().unwrap()).unwrap();
            let lane = backing.lane(&copy, &path).unwrap();
            assert_eq!(lane.is_some(), fate == Fate::Lasting, "tests need a file system with O_DIRECT");
            let mut at_rest = AtRest::begin(room * PAGE, lane).unwrap().finish().unwrap();
            // It comes to have a page more, and gives one back for which there was room in the lane.
            map.write(3500 * PAGE, &[9; PAGE_LEN]);
            map.forget(1000 * PAGE);
            assert_eq!(at_rest.read(&memory, 0, Some(&mut backing)).unwrap(), Some(2901 * PAGE));
            assert_eq!(at_rest.own().bytes(), 2901 * PAGE);
            // It runs again.
            map.write(200 * PAGE, &[77; PAGE_LEN]);
            map.write(4000 * PAGE, &[77; PAGE_LEN]);
            match fate {
                Fate::Lasting => {
                    let counted = at_rest.write_lasting(&copy, Some(backing)).unwrap();
                    let mut whole = vec![0; usize::try_from(PAGES * PAGE).unwrap()];
                    copy.read_exact_at(&mut whole, 0).unwrap();
                    let seen: Vec<_> = of_blocks(0, &whole).collect();
                    // 179 blocks went past the cache; all others that are not of zeros have pages of its own.
                    assert_eq!(counted.digests().len(), 179);
                    assert!(counted.digests().iter().all(|digest| seen.contains(digest)), "they are of what is in the copy");
                    let known = counted.rest_of(data_blocks(&copy, BLOCK).unwrap());
                    assert_eq!(known.iter().map(|range| (range.end - range.start) / BLOCK).sum::<u64>(), seen.len() as u64 - 179);
                }
                Fate::Passing => {
                    backing.finish(&at_rest.own(), &Own::default()).unwrap();
                    at_rest.write(&copy).unwrap();
                }
            }
            let at = |page: u64| {
                let mut byte = [0];
                copy.read_exact_at(&mut byte, page * PAGE).unwrap();
                byte[0]
            };
            assert_eq!([0, 1, 5, 9, 99, 100, 200, 2999, 3000, 3500, 4000].map(at), [1, 0, 0, 0, 0, 101, 201, 183, 0, 9, 0], "{fate:?}");
            assert_eq!([999, 1000, 1001].map(at), [231, 3, 233], "{fate:?}: what was given back is what is behind it");
            map.write(1000 * PAGE, &[233; PAGE_LEN]);
            map.forget(3500 * PAGE);
            map.write(200 * PAGE, &[201; PAGE_LEN]);
            map.forget(4000 * PAGE);
        }
        let mut small = AtRest::begin(2900 * PAGE, None).unwrap().finish().unwrap();
        assert_eq!((small.read(&memory, 2900 * PAGE, None).unwrap(), small.own().bytes()), (None, 0));
        assert_eq!((small.read(&memory, 2901 * PAGE, None).unwrap(), small.own().bytes()), (Some(2901 * PAGE), 2901 * PAGE));
        let late = tempfile::tempfile().unwrap();
        late.set_len(PAGES * PAGE).unwrap();
        small.write(&late).unwrap();
        let mut byte = [0];
        late.read_exact_at(&mut byte, 2999 * PAGE).unwrap();
        assert_eq!(byte, [183]);
    }
}
