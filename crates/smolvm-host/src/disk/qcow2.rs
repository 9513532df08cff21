//! The format of a layer: qcow2, version 3, as QEMU's `docs/interop/qcow2.txt` describes it, and of that as little as possible.
//!
//! ```text
//!   header   1 cluster: size, where the tables are        L1   one entry for 32 MiB of the disk: its L2 table, or none
//!   L2       2,048 entries: a cluster of data, "zeros", or "as below"      refcounts   1 for each cluster of the file
//! ```
//!
//! A layer names nothing: no backing file, no file with data, no snapshots, no bitmaps. What lies below it is told to QEMU
//! in its command line. A header that has anything else is refused before QEMU sees it ([`check`]): the hypervisor that
//! wrote it may have been somebody else's by then, and another one shall not open files because it says so.
//!
//! Clusters have 16 KiB. With QEMU's 64 a guest that changes 4 KiB here and there reads and writes sixteen times that.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// Bytes of a cluster, of data or of tables.
pub const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 14;
/// Entries of a table in one cluster.
pub(super) const ENTRIES: u64 = CLUSTER / 8;
/// Bytes of a cluster as a length.
pub(super) const CLUSTER_LEN: usize = 1 << CLUSTER_BITS;
/// Refcounts have 16 bits.
pub(super) const COUNTS: u64 = CLUSTER / 2;
/// Of an entry: nobody else has the cluster, so it may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// Of an entry of L2: reads as zeros, whatever is below.
pub(super) const ZERO: u64 = 1;
/// Of an entry of L2: compressed, which ours never are.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Of an entry: where the cluster is.
pub(super) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The header's fields, in bytes: as ours are written, and as QEMU writes them again.
const HEADER: usize = 112;
/// The same before a field for the way of compression was added.
const OLD_HEADER: u32 = 104;
/// A header extension that only has names for people.
const FEATURE_NAMES: u32 = 0x6803_f857;

/// How large the tables of a disk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of the disk.
    pub(super) size: u64,
    /// Clusters that the guest sees.
    pub(super) clusters: u64,
    /// Entries of L1.
    pub(super) l1_entries: u64,
    /// Clusters that L1 takes.
    pub(super) l1_clusters: u64,
}

impl Shape {
    pub(super) fn of(size: u64) -> Self {
        let clusters = size.div_ceil(CLUSTER);
        let l1_entries = clusters.div_ceil(ENTRIES);
        Self { size, clusters, l1_entries, l1_clusters: l1_entries.div_ceil(ENTRIES).max(1) }
    }
}

/// Where the parts of a layer are that move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tables {
    /// The first byte of the refcount table.
    pub(super) refcounts: u64,
    /// Its clusters.
    pub(super) refcount_clusters: u32,
}

/// How long a layer of a disk of this size can become: all of it, its tables, and what a killed hypervisor lost track of.
pub fn longest(size: u64) -> u64 {
    size.saturating_add(size / 64).saturating_add(4 << 20)
}

/// The header of a layer whose L1 follows it.
pub(super) fn header(shape: Shape, tables: Tables) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xfb");
    put(4, &3_u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &shape.size.to_be_bytes());
    put(36, &u32::try_from(shape.l1_entries).unwrap_or(u32::MAX).to_be_bytes());
    put(40, &CLUSTER.to_be_bytes());
    put(48, &tables.refcounts.to_be_bytes());
    put(56, &tables.refcount_clusters.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &u32::try_from(HEADER).unwrap_or(0).to_be_bytes());
    bytes
}

/// Whether the file is a layer of a disk of this size and nothing more.
///
/// # Errors
/// `InvalidData` with what is wrong.
pub fn check(file: &File, size: u64) -> io::Result<()> {
    let mut bytes = [0; CLUSTER_LEN];
    let length = read_up_to(file, &mut bytes, 0)?;
    match fault(&bytes[..length], Shape::of(size)) {
        None => Ok(()),
        Some(what) => Err(damaged(what)),
    }
}

pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it is no layer of this disk: {what}"))
}

/// What is wrong with a header; the whole first cluster, or what there is of it.
pub fn fault_in_header(bytes: &[u8], size: u64) -> Option<&'static str> {
    fault(bytes, Shape::of(size))
}

fn fault(bytes: &[u8], shape: Shape) -> Option<&'static str> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let aligned = |at: usize| long(at).is_some_and(|offset| offset != 0 && offset.is_multiple_of(CLUSTER) && offset & !OFFSET == 0);
    let rules = [
        (bytes.get(..4) == Some(b"QFI\xfb") && word(4) == Some(3), "another format"),
        (long(8) == Some(0) && word(16) == Some(0), "it names a backing file"),
        (word(20) == Some(CLUSTER_BITS), "clusters of another size"),
        (long(24) == Some(shape.size), "a disk of another size"),
        (word(32) == Some(0), "it is encrypted"),
        (word(36).map(u64::from) == Some(shape.l1_entries) && aligned(40), "its table is another"),
        (aligned(48) && word(56).is_some_and(|clusters| clusters != 0), "it has no refcounts"),
        (word(60) == Some(0), "it has snapshots in it"),
        (long(72) == Some(0), "it was damaged, or has its data elsewhere"),
        (long(88) == Some(0), "it has features that it may not have"),
        (word(96) == Some(4), "refcounts of another width"),
        (word(100) == Some(OLD_HEADER) || (word(100) == u32::try_from(HEADER).ok() && long(104) == Some(0)), "another header"),
    ];
    let broken = rules.into_iter().find(|(holds, _)| !holds).map(|(_, what)| what);
    broken.or_else(|| fault_in_extensions(bytes, usize::try_from(word(100)?).ok()?))
}

/// Extensions follow the header: a type, a length, that many bytes, and zeros up to a multiple of eight.
fn fault_in_extensions(bytes: &[u8], mut at: usize) -> Option<&'static str> {
    loop {
        let Some(head) = bytes.get(at..at + 8) else { return Some("its header does not end") };
        let (kind, length) = head.split_at(4);
        match u32::from_be_bytes(kind.try_into().ok()?) {
            0 => return None,
            FEATURE_NAMES => {}
            _ => return Some("it says more than a layer may"),
        }
        let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).unwrap_or(usize::MAX);
        at = at.saturating_add(8).saturating_add(length.saturating_add(7) & !7);
    }
}

/// Reads until the buffer is full or the file ends; what lies behind the end stays as it was.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Vec<u8> {
        let mut bytes = header(Shape::of(8 << 30), Tables { refcounts: 3 * CLUSTER, refcount_clusters: 1 }).to_vec();
        bytes.resize(CLUSTER_LEN, 0);
        bytes
    }

    #[test]
    fn a_header_of_ours_is_one_and_of_no_other_disk() {
        assert_eq!(fault_in_header(&good(), 8 << 30), None);
        assert_eq!(fault_in_header(&good(), 4 << 30), Some("a disk of another size"));
        for cut in [0, 3, 50, HEADER, HEADER + 7] {
            assert!(fault_in_header(&good()[..cut], 8 << 30).is_some(), "{cut}");
        }
    }

    /// Everything by which a header could have QEMU open something, or read what is not in it.
    #[test]
    fn a_header_that_says_more_than_ours_is_refused() {
        let table: [(usize, &[u8], &str); 13] = [
            (8, &104_u64.to_be_bytes(), "a backing file"),
            (16, &9_u32.to_be_bytes(), "a backing file's length"),
            (32, &2_u32.to_be_bytes(), "encryption"),
            (40, &(CLUSTER + 1).to_be_bytes(), "a table between clusters"),
            (40, &0_u64.to_be_bytes(), "a table in the header"),
            (60, &1_u32.to_be_bytes(), "a snapshot"),
            (72, &1_u64.to_be_bytes(), "left open"),
            (72, &2_u64.to_be_bytes(), "damaged"),
            (72, &4_u64.to_be_bytes(), "an external data file"),
            (72, &16_u64.to_be_bytes(), "extended entries"),
            (88, &2_u64.to_be_bytes(), "raw external data"),
            (HEADER, &0x4441_5441_u32.to_be_bytes(), "the name of a data file"),
            (HEADER, &0xe279_2aca_u32.to_be_bytes(), "the format of a backing file"),
        ];
        for (at, value, what) in table {
            let mut bytes = good();
            bytes[at..at + value.len()].copy_from_slice(value);
            assert!(fault_in_header(&bytes, 8 << 30).is_some(), "{what}");
        }
        // An extension that is known may not hide one that is not, nor end nowhere.
        let mut bytes = good();
        bytes[HEADER..HEADER + 4].copy_from_slice(&FEATURE_NAMES.to_be_bytes());
        bytes[HEADER + 7] = 9;
        assert_eq!(fault_in_header(&bytes, 8 << 30), None);
        bytes[HEADER + 24..HEADER + 28].copy_from_slice(&0x4441_5441_u32.to_be_bytes());
        assert!(fault_in_header(&bytes, 8 << 30).is_some());
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(fault_in_header(&bytes, 8 << 30).is_some());
    }

    #[test]
    fn tables_are_as_large_as_the_disk_wants_them() {
        let shape = |size| (Shape::of(size).clusters, Shape::of(size).l1_entries, Shape::of(size).l1_clusters);
        assert_eq!(shape(32 << 20), (2048, 1, 1));
        assert_eq!(shape((32 << 20) + 4096), (2049, 2, 1));
        assert_eq!(shape(15 << 40), (983_040 << 10, 480 << 10, 240));
        assert!(longest(8 << 30) > (8 << 30) + (8 << 30) / 2048 * 2 && longest(u64::MAX) == u64::MAX);
    }
}
