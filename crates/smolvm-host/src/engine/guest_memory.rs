//! The memory of a guest, read out of its hypervisor while that runs.
//!
//! ```text
//!   hypervisor   ┌────────── guest memory ──────────┐      pagemap: this page is the guest's own, that one is the file's
//!                │ file │ own │ file │ not there │ …│
//!                └──────┴──┬──┴──────┴───────────┴──┘
//!   copy         the file it is mapped from, sparsely    over it its own pages, read from outside (`remote`)
//! ```
//!
//! A fork has its template's memory mapped privately, so what it changed are exactly the pages that are there and are not
//! the file's. A machine that booted has no file, and all pages that are there are its own. Either way the cost goes
//! with what the guest touched, and not with its size.
//!
//! Nothing that is read is believed: a hypervisor that lies about where its guest is gives away some of its own memory,
//! and no more than the guest's size of it.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::fsx::copy_data_around;
use crate::threads;

mod at_rest;
mod backing;
mod counted;
mod large;
mod remote;
mod room;

pub use at_rest::{AtRest, RoomInMaking};
pub use backing::BackingCopy;
pub use counted::Counted;
pub use large::Lane;

use remote::Remote;

/// The size of a page on every processor this runs on; pagemap has one entry for each.
const PAGE: u64 = PAGE_LEN as u64;
const PAGE_LEN: usize = 4096;
/// Entries that are looked at together: those of 64 MiB.
const ENTRIES: usize = 16 << 10;
/// Bytes that are carried over together: what the processor keeps at hand between reading and writing them.
const CHUNK: usize = 256 << 10;
/// Copying waits for memory, and two do not for each other.
const AT_ONCE: usize = 2;
/// A process has some hundred mappings.
const MAPS_CAP: u64 = 4 << 20;

/// Bits of an entry of pagemap (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// A running guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    memory: Arc<Remote>,
    pagemap: File,
    address: u64,
    bytes: u64,
    backing: Backing,
}

/// What becomes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is synced, and what is large of it is brought to the disk while it is made.
    Lasting,
    /// It is used, and goes.
    Passing,
}

/// Pages that the guest had to itself at one moment.
#[derive(Debug, Default)]
pub struct Own {
    /// Where they are, in bytes, in their order.
    ranges: Vec<Range<u64>>,
}

impl Own {
    /// How much that is.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// What of it is so much without a gap.
    fn runs_of(&self, least: u64) -> Vec<Range<u64>> {
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

    /// What of it is not in another.
    fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Range<u64>> + 'a {
        self.ranges.iter().flat_map(|range| {
            let first = other.ranges.partition_point(|kept| kept.end <= range.start);
            let kept = other.ranges[first..].iter().take_while(|kept| kept.start < range.end);
            let ends = kept.clone().map(|kept| kept.start).chain([range.end]);
            let starts = std::iter::once(range.start).chain(kept.map(|kept| kept.end));
            starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end)
        })
    }
}

/// What is behind the pages that the guest did not write.
#[derive(Debug)]
enum Backing {
    /// Nothing.
    Zeros,
    /// This file.
    File(File),
    /// A file that nobody can open any more: its pages are read through the hypervisor.
    Lost,
}

impl GuestMemory {
    /// Opens `bytes` of memory at `address` in a hypervisor. Whoever calls makes sure afterwards that it still is the
    /// process that was meant.
    pub fn open(proc: &Path, pid: u32, address: u64, bytes: u64) -> Result<Self> {
        let dir = proc.join(pid.to_string());
        if !address.is_multiple_of(PAGE)
            || !bytes.is_multiple_of(PAGE)
            || address.checked_add(bytes).is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Error::new(ErrorKind::InvalidData, "the hypervisor names a place that cannot be its guest's"));
        }
        let (memory, pagemap) = (Arc::new(Remote::open(proc, pid)?), File::open(dir.join("pagemap"))?);
        let backing = backing(&dir, address, bytes)?;
        Ok(Self { memory, pagemap, address, bytes, backing })
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is behind it takes so much of the disk, if that is a file.
    pub fn backing_bytes(&self) -> Result<u64> {
        match &self.backing {
            // What is read through the hypervisor counts as the guest's own.
            Backing::Zeros | Backing::Lost => Ok(0),
            Backing::File(file) => Ok(file.metadata()?.blocks() * 512),
        }
    }

    /// What of it the guest has to itself now.
    pub fn own(&self) -> Result<Own> {
        let (mut pieces, mut ranges) = (Pieces::of(self), Vec::new());
        while let Some((at, len)) = pieces.next()? {
            ranges.push(at..at + len);
        }
        Ok(Own { ranges })
    }

    /// Writes into an empty file what is behind the guest's own pages. A machine may run meanwhile: that does not change.
    pub fn copy_backing(&self, target: &File, fate: Fate) -> Result<()> {
        let nothing = Own::default();
        BackingCopy::begin(self, target, fate, &nothing)?.finish(&nothing)
    }

    /// The same around what its own pages were when it stood still, and are in the file already: it may run meanwhile, or have ended.
    pub fn copy_backing_around(&self, own: &Own, target: &File, give_up: &AtomicBool) -> Result<()> {
        match &self.backing {
            Backing::Zeros | Backing::Lost => Ok(()),
            Backing::File(file) => copy_data_around(file, target, own.ranges.iter().cloned(), give_up),
        }
    }

    /// Writes the guest's own pages into a file of the memory's length. The machine may run meanwhile.
    pub fn copy_own(&self, target: &File) -> Result<Own> {
        self.each_own(|at, bytes, _| write_page_wise(target, bytes, at))
    }

    /// Does it again when the machine stands still, for what has changed since its own pages were `before`; and gives all that it has now.
    ///
    /// A page that is what it was is not written, so that the disk has it to write once. One that it has given back meanwhile is copied as it
    /// is seen now.
    pub fn copy_changed(&self, before: &Own, target: &File) -> Result<Own> {
        let now = self.each_own(|at, bytes, there| {
            target.read_exact_at(there, at)?;
            let changed = bytes.chunks_exact(PAGE_LEN).zip(there.chunks_exact(PAGE_LEN)).map(|(now, then)| now != then);
            for (first, count) in runs(changed) {
                let (start, len) = (first * PAGE, count * PAGE);
                let range = usize::try_from(start).unwrap_or(0)..usize::try_from(start + len).unwrap_or(0);
                target.write_all_at(&bytes[range], at + start)?;
            }
            Ok(())
        })?;
        let mut page = [0; PAGE_LEN];
        for at in before.without(&now).flat_map(|range| range.step_by(PAGE_LEN)) {
            self.memory.read_exact_at(&mut page, self.address + at)?;
            target.write_all_at(&page, at)?;
        }
        Ok(now)
    }

    /// Reads the guest's own pages, some at a time, with where they are. Two pieces are at work at once,
    /// each with room for as many bytes.
    fn each_own(&self, take: impl Fn(u64, &[u8], &mut [u8]) -> Result<()> + Sync) -> Result<Own> {
        let pieces = Mutex::new(Pieces::of(self));
        let copied = threads::at_once(AT_ONCE, || {
            let (mut buffer, mut room, mut copied) = (vec![0; CHUNK], vec![0; CHUNK], Vec::new());
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next()?;
                let Some((at, len)) = next else { return Ok(copied) };
                let wanted = usize::try_from(len).unwrap_or(CHUNK);
                self.memory.read_exact_at(&mut buffer[..wanted], self.address + at)?;
                take(at, &buffer[..wanted], &mut room[..wanted])?;
                copied.push(at..at + len);
            }
        })?;
        let mut ranges = copied.concat();
        ranges.sort_unstable_by_key(|range| range.start);
        Ok(Own { ranges })
    }

    fn is_own(&self, entry: &[u8]) -> bool {
        let entry = entry.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let there = entry & (PRESENT | SWAPPED) != 0;
        match self.backing {
            Backing::Zeros | Backing::File(_) => there && entry & OF_FILE == 0,
            Backing::Lost => true,
        }
    }
}

/// The guest's own pages: where they are, in pieces of a [`CHUNK`] at most.
struct Pieces<'a> {
    memory: &'a GuestMemory,
    /// From here on nobody has looked yet.
    at: u64,
    entries: Vec<u8>,
    /// First byte and length of each, the last first.
    found: Vec<(u64, u64)>,
}

impl<'a> Pieces<'a> {
    fn of(memory: &'a GuestMemory) -> Self {
        Self { memory, at: 0, entries: vec![0; ENTRIES * size_of::<u64>()], found: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<(u64, u64)>> {
        let memory = self.memory;
        while self.found.is_empty() && self.at < memory.bytes {
            let pages = ((memory.bytes - self.at) / PAGE).min(ENTRIES as u64);
            let wanted = &mut self.entries[..usize::try_from(pages).unwrap_or(0) * size_of::<u64>()];
            memory.pagemap.read_exact_at(wanted, (memory.address + self.at) / PAGE * 8)?;
            for (first, count) in runs(wanted.chunks_exact(8).map(|entry| memory.is_own(entry))) {
                let (start, end) = (self.at + first * PAGE, self.at + (first + count) * PAGE);
                let cuts = (start..end).step_by(CHUNK);
                self.found.extend(cuts.map(|at| (at, (end - at).min(CHUNK as u64))));
            }
            self.found.reverse();
            self.at += pages * PAGE;
        }
        Ok(self.found.pop())
    }
}

/// Writes pages; those of zeros only where the file has something else, so that its holes stay holes.
fn write_page_wise(target: &File, bytes: &[u8], at: u64) -> Result<()> {
    let zeros = |page: &[u8]| page == [0; PAGE_LEN];
    let mut there = [0; PAGE_LEN];
    for (first, count) in runs(bytes.chunks_exact(PAGE_LEN).map(|page| !zeros(page))) {
        let (start, len) = (first * PAGE, count * PAGE);
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(start + len).unwrap_or(0);
        target.write_all_at(&bytes[range], at + start)?;
    }
    for (number, _) in bytes.chunks_exact(PAGE_LEN).enumerate().filter(|(_, page)| zeros(page)) {
        let place = at + number as u64 * PAGE;
        target.read_exact_at(&mut there, place)?;
        if !zeros(&there) {
            target.write_all_at(&[0; PAGE_LEN], place)?;
        }
    }
    Ok(())
}

/// Where the answer is yes: the first of each run, and how many.
fn runs(answers: impl Iterator<Item = bool>) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (number, _) in (0..).zip(answers).filter(|(_, yes)| *yes) {
        match found.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => found.push((number, 1)),
        }
    }
    found
}

/// The file that is mapped at an address.
fn backing(dir: &Path, address: u64, bytes: u64) -> Result<Backing> {
    let mut maps = String::new();
    File::open(dir.join("maps"))?.take(MAPS_CAP).read_to_string(&mut maps)?;
    let odd = || Error::new(ErrorKind::InvalidData, "the hypervisor has no memory where it says that its guest's is");
    let mapping = maps.lines().filter_map(Mapping::parse).find(|m| (m.start..m.end).contains(&address)).ok_or_else(odd)?;
    if mapping.inode == 0 {
        return Ok(Backing::Zeros);
    }
    if mapping.start != address || mapping.offset != 0 {
        return Err(odd());
    }
    // By its name as long as it has one; a user without rights cannot take the other way.
    let link = dir.join("map_files").join(format!("{:x}-{:x}", mapping.start, mapping.end));
    let opened = [mapping.path, link]
        .into_iter()
        .filter_map(|path| File::open(path).ok())
        .find(|file| file.metadata().is_ok_and(|seen| seen.ino() == mapping.inode && seen.is_file() && seen.len() == bytes));
    Ok(opened.map_or(Backing::Lost, Backing::File))
}

/// A line of `/proc/PID/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    inode: u64,
    path: PathBuf,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (_rights, offset, _device) = (words.next()?, words.next()?, words.next()?);
        let inode = words.next()?.parse().ok()?;
        let path = words.next().unwrap_or_default().trim_start().into();
        Some(Self { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, inode, path })
    }
}

#[cfg(test)]
mod tests;
