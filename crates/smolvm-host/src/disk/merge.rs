//! Writes a layer: an empty one, or one with all that several have, which read as it does.
//!
//! ```text
//!   header · L1 · for each 32 MiB in which there is anything: its clusters, then their L2 · refcounts · their table
//! ```
//!
//! The layers may have been written by a hypervisor that was somebody else's. Whatever their tables say, nothing is read
//! but these files, and nothing twice: a cluster that a layer names a second time is refused, of data as of tables. So no more is
//! read than they are long and no more blocks are written than they have: a file's length costs nobody anything, what is not zero
//! does, and of a cluster only the pieces that are not zero are written. Memory is a bit for each cluster that a layer can have,
//! as far as it names any.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::qcow2::{
    CLUSTER, CLUSTER_LEN, COMPRESSED, COPIED, COUNTS, ENTRIES, OFFSET, Shape, Tables, ZERO, check, damaged, header, longest, read_up_to,
};

/// What is written or left out: a block of most file systems.
const PIECE: usize = 4096;

/// Writes into the empty file a layer of a disk of this size that has what these have together, the lowest first.
pub(super) fn write(target: &File, size: u64, layers: &[File]) -> io::Result<()> {
    let shape = Shape::of(size);
    let mut readers = layers.iter().rev().map(|file| Reader::open(file, shape)).collect::<io::Result<Vec<_>>>()?;
    let mut writer = Writer { target, next: 1 + shape.l1_clusters };
    let mut l1 = Vec::new();
    for (place, number) in (0..shape.l1_entries).enumerate() {
        let tables = readers.iter_mut().map(|reader| reader.table(place)).collect::<io::Result<Vec<_>>>()?;
        let in_use = (shape.clusters - number * ENTRIES).min(ENTRIES);
        l1.push(writer.table(&mut readers, &tables, usize::try_from(in_use).unwrap_or(0))?);
    }
    target.write_all_at(&bytes_of(&l1), CLUSTER)?;
    let (tables, end) = writer.refcounts()?;
    target.set_len(end * CLUSTER)?;
    // Last: before this it is no layer.
    target.write_all_at(&header(shape, tables), 0)
}

/// What a layer says of one cluster of the disk.
enum Cluster {
    /// It is as it is below.
    AsBelow,
    /// Zeros.
    Zeros,
    /// It is here in the file.
    At(u64),
}

struct Reader<'a> {
    file: &'a File,
    l1: Vec<u64>,
    named: Named,
}

impl<'a> Reader<'a> {
    fn open(file: &'a File, shape: Shape) -> io::Result<Self> {
        check(file, shape.size)?;
        let length = file.metadata()?.len();
        if length > longest(shape.size) {
            return Err(damaged("it is longer than one can become"));
        }
        let mut at = [0; 8];
        file.read_exact_at(&mut at, 40)?;
        let entries = usize::try_from(shape.l1_entries).map_err(|_| damaged("its table is too large"))?;
        let l1 = read_entries(file, u64::from_be_bytes(at), entries)?;
        Ok(Self { file, l1, named: Named::none_of(length)? })
    }

    /// The table of that place; nothing if the layer has nothing there.
    fn table(&mut self, place: usize) -> io::Result<Option<Vec<u64>>> {
        match self.l1.get(place).map_or(0, |entry| entry & OFFSET) {
            0 => Ok(None),
            offset if self.named.first_time(offset)? => read_entries(self.file, offset, CLUSTER_LEN / 8).map(Some),
            _ => Ok(None),
        }
    }
}

/// Which clusters of a file its tables have named.
struct Named {
    clusters: u64,
    bits: Vec<u64>,
}

impl Named {
    fn none_of(length: u64) -> io::Result<Self> {
        let clusters = length.div_ceil(CLUSTER);
        let words = usize::try_from(clusters.div_ceil(64)).map_err(|_| damaged("it is too large"))?;
        Ok(Self { clusters, bits: vec![0; words] })
    }

    /// Takes down that one of these is named. False: it lies behind the end, where there is nothing.
    ///
    /// # Errors
    /// It was named before, or lies between two, where it would be a part of both.
    fn first_time(&mut self, offset: u64) -> io::Result<bool> {
        if !offset.is_multiple_of(CLUSTER) {
            return Err(damaged("it has something between two clusters"));
        }
        let cluster = offset / CLUSTER;
        let word = usize::try_from(cluster / 64).ok().filter(|_| cluster < self.clusters).and_then(|word| self.bits.get_mut(word));
        let Some(word) = word else { return Ok(false) };
        let before = *word;
        *word |= 1 << (cluster % 64);
        if *word == before { Err(damaged("it names a cluster twice")) } else { Ok(true) }
    }
}

fn meaning(entry: u64) -> io::Result<Cluster> {
    match (entry & OFFSET, entry & ZERO, entry & COMPRESSED) {
        (_, _, COMPRESSED) => Err(damaged("it is compressed")),
        (_, ZERO, _) => Ok(Cluster::Zeros),
        (0, _, _) => Ok(Cluster::AsBelow),
        (offset, _, _) => Ok(Cluster::At(offset)),
    }
}

struct Writer<'a> {
    target: &'a File,
    /// The next cluster that is free.
    next: u64,
}

impl Writer<'_> {
    /// Writes what these tables of these layers, the highest first, come to; gives the entry for L1.
    fn table(&mut self, readers: &mut [Reader<'_>], tables: &[Option<Vec<u64>>], in_use: usize) -> io::Result<u64> {
        if tables.iter().all(Option::is_none) {
            return Ok(0);
        }
        let mut entries = vec![0; CLUSTER_LEN / 8];
        for (place, entry) in entries.iter_mut().enumerate().take(in_use) {
            for (reader, table) in readers.iter_mut().zip(tables) {
                let Some(table) = table else { continue };
                match meaning(table.get(place).copied().unwrap_or(0))? {
                    Cluster::AsBelow => continue,
                    Cluster::Zeros => *entry = ZERO,
                    Cluster::At(offset) => *entry = self.data(reader, offset)?,
                }
                break;
            }
        }
        if entries.iter().all(|entry| *entry == 0) {
            return Ok(0);
        }
        Ok(COPIED | self.put(&bytes_of(&entries))?)
    }

    fn data(&mut self, from: &mut Reader<'_>, offset: u64) -> io::Result<u64> {
        if !from.named.first_time(offset)? {
            return Ok(ZERO);
        }
        let mut bytes = vec![0; CLUSTER_LEN];
        read_up_to(from.file, &mut bytes, offset)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(ZERO);
        }
        Ok(COPIED | self.put(&bytes)?)
    }

    /// Writes a cluster, with holes where it is zero: one that has a single block in its layer has no more here.
    fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let offset = self.next * CLUSTER;
        for (at, piece) in (offset..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
            if piece.iter().any(|byte| *byte != 0) {
                self.target.write_all_at(piece, at)?;
            }
        }
        self.next += 1;
        Ok(offset)
    }

    /// One for every cluster, those of the refcounts too; gives where they are and how many clusters the file has.
    fn refcounts(&mut self) -> io::Result<(Tables, u64)> {
        let (mut blocks, mut table) = (1, 1);
        loop {
            let needed = (self.next + blocks + table).div_ceil(COUNTS);
            if needed <= blocks && blocks.div_ceil(ENTRIES) <= table {
                break;
            }
            (blocks, table) = (needed, needed.div_ceil(ENTRIES));
        }
        let (first, end) = (self.next, self.next + blocks + table);
        for block in 0..blocks {
            let counted = (end - block * COUNTS).min(COUNTS);
            let mut bytes = vec![0; CLUSTER_LEN];
            for count in bytes.chunks_exact_mut(2).take(usize::try_from(counted).unwrap_or(0)) {
                count[1] = 1;
            }
            self.put(&bytes)?;
        }
        let offsets: Vec<u64> = (first..first + blocks).map(|cluster| cluster * CLUSTER).collect();
        let refcounts = self.next * CLUSTER;
        self.target.write_all_at(&bytes_of(&offsets), refcounts)?;
        Ok((Tables { refcounts, refcount_clusters: u32::try_from(table).map_err(|_| damaged("it is too large"))? }, end))
    }
}

fn read_entries(file: &File, at: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    read_up_to(file, &mut bytes, at)?;
    Ok(bytes.chunks_exact(8).filter_map(|entry| entry.try_into().ok()).map(u64::from_be_bytes).collect())
}

fn bytes_of(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_be_bytes()).collect()
}
