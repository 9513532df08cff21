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
mod own;
mod pagemap;
mod remote;
mod room;

pub use at_rest::{AtRest, RoomInMaking};
pub use backing::BackingCopy;
pub use counted::Counted;
pub use large::Lane;
pub use own::Own;
pub use pagemap::Pages;

use pagemap::Pagemap;
use remote::Remote;

/// The size of a page on every processor this runs on; pagemap has one entry for each.
const PAGE: u64 = PAGE_LEN as u64;
const PAGE_LEN: usize = 4096;
/// Bytes that are carried over together: what the processor keeps at hand between reading and writing them.
const CHUNK: usize = 256 << 10;
/// Copying waits for memory, and two do not for each other.
const AT_ONCE: usize = 2;
/// A process has some hundred mappings.
const MAPS_CAP: u64 = 4 << 20;

/// A running guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    memory: Arc<Remote>,
    pagemap: Pagemap,
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
        let (memory, pagemap) = (Arc::new(Remote::open(proc, pid)?), Pagemap::open(&dir)?);
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
        self.pages().map(|pages| pages.own)
    }

    /// The same, and what else it uses.
    pub fn pages(&self) -> Result<Pages> {
        let mut pages = self.pagemap.pages(self.address, self.bytes)?;
        if matches!(self.backing, Backing::Lost) {
            // Nobody can copy it from where it is.
            pages = Pages { own: Own::of_all(self.bytes), seen: Own::default() };
        }
        Ok(pages)
    }

    /// Writes into an empty file what is behind the guest's own pages. A machine may run meanwhile: that does not change.
    pub fn copy_backing(&self, target: &File, fate: Fate) -> Result<()> {
        let nothing = Own::default();
        BackingCopy::begin(self, target, fate, &Pages::default())?.finish(&nothing, &nothing)
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
        let own = self.own()?;
        let pieces = Mutex::new(own.pieces(CHUNK as u64));
        threads::at_once(AT_ONCE, || {
            let (mut buffer, mut room) = (vec![0; CHUNK], vec![0; CHUNK]);
            loop {
                let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(piece) = next else { return Ok(()) };
                let wanted = usize::try_from(piece.end - piece.start).unwrap_or(CHUNK);
                self.memory.read_exact_at(&mut buffer[..wanted], self.address + piece.start)?;
                take(piece.start, &buffer[..wanted], &mut room[..wanted])?;
            }
        })?;
        drop(pieces);
        Ok(own)
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
