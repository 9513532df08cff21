//! The memory of a guest, read out of its hypervisor while that runs.
//!
//! ```text
//!   hypervisor   ┌────────── guest memory ──────────┐      pagemap: this page is the guest's own, that one is the file's
//!                │ file │ own │ file │ not there │ …│
//!                └──────┴──┬──┴──────┴───────────┴──┘
//!   copy         the file it is mapped from, sparsely    then its own pages, through /proc/PID/mem
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

use crate::fsx::{copy_data, copy_data_around};

/// The size of a page on every processor this runs on; pagemap has one entry for each.
const PAGE: u64 = PAGE_LEN as u64;
const PAGE_LEN: usize = 4096;
/// Entries that are looked at together: those of 64 MiB.
const ENTRIES: usize = 16 << 10;
/// Bytes that are carried over together.
const CHUNK: usize = 1 << 20;
/// A process has some hundred mappings.
const MAPS_CAP: u64 = 4 << 20;

/// Bits of an entry of pagemap (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// A running guest's memory.
#[derive(Debug)]
pub struct GuestMemory {
    memory: File,
    pagemap: File,
    address: u64,
    bytes: u64,
    backing: Backing,
}

/// Pages that the guest had to itself at one moment.
#[derive(Debug)]
pub struct Own {
    /// Where they are, in bytes, in their order.
    ranges: Vec<Range<u64>>,
}

impl Own {
    /// How much that is.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
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
        let (memory, pagemap) = (File::open(dir.join("mem"))?, File::open(dir.join("pagemap"))?);
        let backing = backing(&dir, address, bytes)?;
        Ok(Self { memory, pagemap, address, bytes, backing })
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What that takes of the disk, if it is a file.
    pub fn backing_bytes(&self) -> Result<u64> {
        match &self.backing {
            Backing::Zeros => Ok(0),
            Backing::File(file) => Ok(file.metadata()?.blocks() * 512),
            Backing::Lost => Ok(self.bytes),
        }
    }

    /// Writes into an empty file what is behind the guest's own pages. A machine may run meanwhile: that does not change.
    pub fn copy_backing(&self, target: &File) -> Result<()> {
        match &self.backing {
            Backing::Zeros | Backing::Lost => target.set_len(self.bytes),
            Backing::File(file) => copy_data(file, target, self.bytes),
        }
    }

    /// The same around what its own pages were when it stood still, and are in the file already: it may run meanwhile, or have ended.
    pub fn copy_backing_around(&self, own: &Own, target: &File) -> Result<()> {
        match &self.backing {
            Backing::Zeros | Backing::Lost => Ok(()),
            Backing::File(file) => copy_data_around(file, target, own.ranges.iter().cloned()),
        }
    }

    /// Writes the guest's own pages into a file of the memory's length. The machine may run meanwhile.
    pub fn copy_own(&self, target: &File) -> Result<Own> {
        self.each_own(|at, bytes| write_page_wise(target, bytes, at))
    }

    /// Does it again when the machine stands still, for what has changed since; and gives all its own pages.
    ///
    /// A page that is what it was is not written, so that the disk has it to write once.
    pub fn copy_changed(&self, target: &File) -> Result<Own> {
        let mut there = vec![0; CHUNK];
        self.each_own(|at, bytes| {
            let there = &mut there[..bytes.len()];
            target.read_exact_at(there, at)?;
            let changed = bytes.chunks_exact(PAGE_LEN).zip(there.chunks_exact(PAGE_LEN)).map(|(now, then)| now != then);
            for (first, count) in runs(changed) {
                let (start, len) = (first * PAGE, count * PAGE);
                let range = usize::try_from(start).unwrap_or(0)..usize::try_from(start + len).unwrap_or(0);
                target.write_all_at(&bytes[range], at + start)?;
            }
            Ok(())
        })
    }

    /// Reads the guest's own pages, some at a time, with where they are.
    fn each_own(&self, mut take: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<Own> {
        let (mut ranges, mut at) = (Vec::new(), 0);
        let mut buffer = vec![0; CHUNK];
        let mut entries = vec![0; ENTRIES * size_of::<u64>()];
        while at < self.bytes {
            let pages = ((self.bytes - at) / PAGE).min(ENTRIES as u64);
            let wanted = &mut entries[..usize::try_from(pages).unwrap_or(0) * size_of::<u64>()];
            self.pagemap.read_exact_at(wanted, (self.address + at) / PAGE * 8)?;
            for (first, count) in runs(wanted.chunks_exact(8).map(|entry| self.is_own(entry))) {
                let (start, bytes) = (at + first * PAGE, count * PAGE);
                self.read_pages(&mut buffer, start, bytes, &mut take)?;
                ranges.push(start..start + bytes);
            }
            at += pages * PAGE;
        }
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

    fn read_pages(&self, buffer: &mut [u8], from: u64, bytes: u64, take: &mut impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let (mut at, end) = (from, from + bytes);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(buffer.len());
            self.memory.read_exact_at(&mut buffer[..wanted], self.address + at)?;
            take(at, &buffer[..wanted])?;
            at += wanted as u64;
        }
        Ok(())
    }
}

/// Writes pages; those of zeros only where the file has something else, so that its holes stay holes.
fn write_page_wise(target: &File, bytes: &[u8], at: u64) -> Result<()> {
    let zeros = |page: &[u8]| page.iter().all(|byte| *byte == 0);
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
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_read_as_the_kernel_writes_it() {
        let line = "7f3a40000000-7f3a48000000 rw-p 00000000 fe:00 393 /a b/memory (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.inode), (0x7f3a_4000_0000, 0x7f3a_4800_0000, 393));
        assert_eq!(mapping.path, PathBuf::from("/a b/memory (deleted)"));
        assert_eq!(Mapping::parse("7ffc-7ffd rw-p 00000000 00:00 0").unwrap().inode, 0);
        for odd in ["", "x", "1-2 r 0 a", "1-zz rw-p 0 0 0"] {
            assert_eq!(Mapping::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn runs_are_maximal() {
        let yes = |text: &str| runs(text.chars().map(|c| c == 'x'));
        assert_eq!(yes("xx.x..xxx"), [(0, 2), (3, 1), (6, 3)]);
        assert_eq!(yes("..."), []);
    }

    #[test]
    fn zeros_are_written_only_over_something() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * PAGE).unwrap();
        let page = |byte| vec![byte; PAGE_LEN];
        write_page_wise(&file, &[page(0), page(7), page(0)].concat(), PAGE).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 <= 2 * PAGE, "a hole was filled with zeros");
        write_page_wise(&file, &[page(0), page(0), page(9)].concat(), PAGE).unwrap();
        let mut seen = page(1);
        file.read_exact_at(&mut seen, 2 * PAGE).unwrap();
        assert_eq!(seen, page(0), "what had become zero kept its old content");
        file.read_exact_at(&mut seen, 3 * PAGE).unwrap();
        assert_eq!(seen, page(9));
    }

    /// This very process is the hypervisor: a private mapping of a file, some of whose pages it wrote.
    #[test]
    fn own_pages_are_told_from_the_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pages = 64;
        file.as_file().set_len(pages * PAGE).unwrap();
        file.as_file().write_all_at(&[1; PAGE_LEN], 0).unwrap();
        file.as_file().write_all_at(&[2; PAGE_LEN], 5 * PAGE).unwrap();
        let map = TestMap::of(file.as_file(), pages * PAGE);
        map.write(5 * PAGE, &[3; PAGE_LEN]);
        map.write(9 * PAGE, &[4; PAGE_LEN]);
        let _ = map.read(0);
        let memory = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), pages * PAGE).unwrap();
        let copy = tempfile::tempfile().unwrap();
        memory.copy_backing(&copy).unwrap();
        assert_eq!(memory.copy_own(&copy).unwrap().bytes(), 2 * PAGE);
        let at = |page: u64| {
            let mut byte = [0];
            copy.read_exact_at(&mut byte, page * PAGE).unwrap();
            byte[0]
        };
        assert_eq!([0, 1, 5, 9].map(at), [1, 0, 3, 4]);
        assert!(copy.metadata().unwrap().blocks() * 512 <= 8 * PAGE, "holes were filled");
        // What changes meanwhile is what the second pass writes; also what becomes zero.
        map.write(9 * PAGE, &[0; PAGE_LEN]);
        map.write(11 * PAGE, &[6; PAGE_LEN]);
        assert_eq!(memory.copy_changed(&copy).unwrap().bytes(), 3 * PAGE);
        let at = |page: u64| {
            let mut byte = [0];
            copy.read_exact_at(&mut byte, page * PAGE).unwrap();
            byte[0]
        };
        assert_eq!([0, 1, 5, 9, 11].map(at), [1, 0, 3, 0, 6]);
        // Its own pages first, and what is behind the others afterwards: what is zero now stays it.
        map.write(5 * PAGE, &[0; PAGE_LEN]);
        let late = tempfile::tempfile().unwrap();
        late.set_len(pages * PAGE).unwrap();
        let own = memory.copy_own(&late).unwrap();
        file.as_file().write_all_at(&[8; PAGE_LEN], 20 * PAGE).unwrap();
        memory.copy_backing_around(&own, &late).unwrap();
        let at = |page: u64| {
            let mut byte = [7];
            late.read_exact_at(&mut byte, page * PAGE).unwrap();
            byte[0]
        };
        assert_eq!([0, 1, 5, 9, 11, 20].map(at), [1, 0, 0, 0, 6, 8]);
        // The file loses its name: nobody can open it by that any more.
        file.close().unwrap();
        let again = GuestMemory::open(Path::new("/proc"), std::process::id(), map.address(), pages * PAGE).unwrap();
        let copy = tempfile::tempfile().unwrap();
        again.copy_backing(&copy).unwrap();
        again.copy_own(&copy).unwrap();
        let mut byte = [0];
        copy.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(byte, [1]);
    }

    #[test]
    fn a_place_that_is_none_is_refused() {
        let me = std::process::id();
        for (address, bytes) in [(0, PAGE), (1, PAGE), (u64::MAX - PAGE + 1, PAGE), (PAGE, 2), (1 << 62, 1 << 62)] {
            assert!(GuestMemory::open(Path::new("/proc"), me, address, bytes).is_err(), "{address:x}");
        }
    }

    #[allow(unsafe_code, reason = "a mapping to be looked at")]
    mod map {
        use std::fs::File;
        use std::os::fd::AsRawFd;

        pub(super) struct TestMap(*mut u8, usize);

        impl TestMap {
            pub(super) fn of(file: &File, bytes: u64) -> Self {
                let bytes = usize::try_from(bytes).unwrap();
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                // SAFETY: a new mapping at a place that the kernel chooses.
                let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
                assert_ne!(address, libc::MAP_FAILED);
                Self(address.cast(), bytes)
            }

            pub(super) fn address(&self) -> u64 {
                self.0 as u64
            }

            pub(super) fn write(&self, at: u64, bytes: &[u8]) {
                let at = usize::try_from(at).unwrap();
                assert!(at + bytes.len() <= self.1);
                // SAFETY: within the mapping, which nobody else knows.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(at), bytes.len()) }
            }

            pub(super) fn read(&self, at: u64) -> u8 {
                let at = usize::try_from(at).unwrap();
                assert!(at < self.1);
                // SAFETY: within the mapping.
                unsafe { self.0.add(at).read_volatile() }
            }
        }

        impl Drop for TestMap {
            fn drop(&mut self) {
                // SAFETY: made by `of`, and not used any more.
                unsafe { libc::munmap(self.0.cast(), self.1) };
            }
        }
    }
    use map::TestMap;
}
