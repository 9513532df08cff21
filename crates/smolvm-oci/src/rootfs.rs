//! From layers to one file: each layer is read twice, once to know all of it, once to put content where it goes.
//!
//! ```text
//!   pass 1   unpack ─► digest ─► members ─► tree, and what of each file is not zeros      nothing is written
//!            plan: how many bytes the image will take; the caller sees whether there is room
//!   pass 2   unpack ─► digest ─► members ─► content of files that are left ─► the image
//! ```
//!
//! Unpacking twice costs less than keeping what was unpacked, and means that a layer that is refused has written nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::capped::Capped;
use crate::digest::{Digest, Hashing};
use crate::ext4::{BLOCK, Ext4Error, Layout, Run};
use crate::layer::{Decompressed, EntryName, Kind, Layer, LayerError, Member, Part, decompress};
use crate::stretches::Stretches;
use crate::tree::{MAX_ENTRIES, MAX_HELD, NodeId, Source, Tree, TreeError};

const CHUNK: usize = 256 << 10;

/// The layers of an image, from below.
pub trait Layers {
    /// The digest of each when it is unpacked.
    fn diff_ids(&self) -> &[Digest];
    /// One of them as it lies there, packed or not.
    fn open(&self, layer: usize) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// What is taken at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Unpacked bytes of all layers together.
    pub unpacked: u64,
    /// Length of the file system.
    pub image: u64,
    /// Memory that names, targets, attributes and maps of all layers may take, in bytes.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unpacked: 128 << 30, image: 64 << 30, held: MAX_HELD }
    }
}

/// Why layers give no file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// A layer is malformed.
    #[error("layer {layer} cannot be used")]
    Layer {
        /// Which, from below, the first is 1.
        layer: usize,
        /// What is wrong with it.
        #[source]
        source: LayerError,
    },
    /// A layer says what none may say.
    #[error("layer {layer} is refused")]
    Refused {
        /// Which, from below, the first is 1.
        layer: usize,
        /// What it says.
        #[source]
        source: TreeError,
    },
    /// A layer cannot be opened.
    #[error("layer {layer} cannot be opened")]
    Open {
        /// Which, from below, the first is 1.
        layer: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer is not the one the image names.
    #[error("layer {layer} unpacks to {actual}, and the image names {expected}")]
    Digest {
        /// Which, from below, the first is 1.
        layer: usize,
        /// What the image's configuration says.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The layers unpack to more than is taken.
    #[error("the layers unpack to more than is taken, at {entry} of layer {layer}")]
    TooMuch {
        /// Which, from below, the first is 1.
        layer: usize,
        /// Where it was passed.
        entry: EntryName,
    },
    /// The tree does not fit into a file system.
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    /// The file system is larger than is taken.
    #[error("the file system would have {bytes} bytes, and {limit} are taken at most")]
    ImageSize {
        /// What it would have.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The image cannot be written.
    #[error("the file system cannot be written")]
    Write(#[source] io::Error),
}

/// What is told while layers are read: how many unpacked bytes were, in both passes together.
pub type Watch<'a> = &'a mut dyn FnMut(u64);

/// A file system that is planned, with all that its content takes.
#[derive(Debug)]
pub struct Plan {
    tree: Tree,
    layout: Layout,
    unpacked: u64,
}

impl Plan {
    /// Reads all layers and plans the file system they come to.
    pub fn of(layers: &dyn Layers, limits: Limits, watch: Watch<'_>) -> Result<Self, RootfsError> {
        let mut tree = Tree::limited(limits.held);
        let (mut unpacked, mut members) = (0, 0);
        for (layer, number) in (0..layers.diff_ids().len()).zip(0_u32..) {
            let mut pass = Pass::open(layers, layer, limits.unpacked - unpacked)?;
            // The second pass will need as much, beside the whole tree.
            let room = limits.held.saturating_sub(pass.extra_memory);
            tree.limit_to(room).map_err(|source| RootfsError::Refused { layer: layer + 1, source })?;
            let mut member = 0;
            while let Some((next, reader)) = pass.next()? {
                let entry = EntryName::of(&next.path);
                let content = content_of(&next.kind);
                let refused = |source| RootfsError::Refused { layer: layer + 1, source };
                members += 1;
                if members > MAX_ENTRIES {
                    return Err(refused(TreeError::TooMany { entry: entry.clone() }));
                }
                let id = tree.apply(Source { layer: number, member }, next).map_err(refused)?;
                if let (Some(id), Some(content)) = (id, content) {
                    let mut seen = Stretches::of_file();
                    each_chunk(reader, &content, layer, |offset, bytes| {
                        seen.take(offset, bytes);
                        Ok(())
                    })?;
                    tree.set_data(id, seen.into_blocks(), &entry).map_err(refused)?;
                }
                member += 1;
                watch(unpacked + pass.bytes());
            }
            unpacked += pass.finish(layers, layer)?;
        }
        let layout = Layout::of(&tree)?;
        if layout.image_bytes() > limits.image {
            return Err(RootfsError::ImageSize { bytes: layout.image_bytes(), limit: limits.image });
        }
        Ok(Self { tree, layout, unpacked })
    }

    /// Length of the image.
    pub fn image_bytes(&self) -> u64 {
        self.layout.image_bytes()
    }

    /// Unpacked bytes of all layers.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// The tree the layers come to.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Reads all layers again and writes the file system into an empty file. It bears the image's digest, so that images that differ
    /// in their configuration alone are two files.
    pub fn write(&self, layers: &dyn Layers, image: &Digest, out: &File, watch: Watch<'_>) -> Result<(), RootfsError> {
        let identity = image.identity();
        self.layout.write_metadata(&self.tree, identity, out).map_err(RootfsError::Write)?;
        let wanted = self.sources();
        let mut unpacked = self.unpacked;
        for (layer, number) in (0..layers.diff_ids().len()).zip(0_u32..) {
            let mut pass = Pass::open(layers, layer, self.unpacked)?;
            let mut member = 0;
            while let Some((next, reader)) = pass.next()? {
                let source = Source { layer: number, member };
                if let (Ok(at), Some(content)) = (wanted.binary_search_by_key(&source, |(source, _)| *source), content_of(&next.kind)) {
                    self.fill(wanted[at].1, reader, &content, layer, out)?;
                }
                member += 1;
                watch(unpacked + pass.bytes());
            }
            unpacked += pass.finish(layers, layer)?;
        }
        Ok(())
    }

    /// Which members' content is in the image.
    fn sources(&self) -> Vec<(Source, NodeId)> {
        let file = |id: NodeId| match &self.tree.node(id).content {
            crate::tree::Content::File { source, data, .. } if !data.is_nothing() => Some((*source, id)),
            _ => None,
        };
        let mut sources: Vec<_> = self.tree.walk().into_iter().filter_map(file).collect();
        sources.sort_unstable();
        sources
    }

    fn fill<R: Read>(&self, file: NodeId, reader: &mut Layer<R>, content: &[Part], layer: usize, out: &File) -> Result<(), RootfsError> {
        let runs = self.layout.runs(&self.tree, file);
        let mut rest = &runs[..];
        each_chunk(reader, content, layer, |offset, bytes| {
            while let Some((run, later)) = rest.split_first() {
                let end = (run.logical + run.length) * BLOCK;
                if end <= offset {
                    rest = later;
                    continue;
                }
                put(run, offset, bytes, out).map_err(RootfsError::Write)?;
                if end >= offset + bytes.len() as u64 {
                    break;
                }
                rest = later;
            }
            Ok(())
        })
    }
}

/// Writes what of a chunk lies within a run.
fn put(run: &Run, offset: u64, bytes: &[u8], out: &File) -> io::Result<()> {
    let (start, end) = (run.logical * BLOCK, (run.logical + run.length) * BLOCK);
    let (from, to) = (start.max(offset), end.min(offset + bytes.len() as u64));
    if from >= to {
        return Ok(());
    }
    let cut = |at: u64| usize::try_from(at - offset).unwrap_or_default();
    out.write_all_at(&bytes[cut(from)..cut(to)], run.physical * BLOCK + (from - start))
}

/// The parts of a file that are in the stream, if it is a file.
fn content_of(kind: &Kind) -> Option<Vec<Part>> {
    match kind {
        Kind::File { parts: Some(parts), .. } => Some(parts.clone()),
        Kind::File { size, parts: None } => Some(vec![Part { offset: 0, length: *size }]),
        Kind::Link { .. } | Kind::Symlink { .. } | Kind::Directory | Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => None,
    }
}

fn each_chunk<R: Read>(
    reader: &mut Layer<R>,
    parts: &[Part],
    layer: usize,
    mut take: impl FnMut(u64, &[u8]) -> Result<(), RootfsError>,
) -> Result<(), RootfsError> {
    let longest = parts.iter().map(|part| part.length).max().unwrap_or_default();
    let mut chunk = vec![0; usize::try_from(longest).map_or(CHUNK, |n| n.min(CHUNK))];
    for part in parts {
        let mut done = 0;
        while done < part.length {
            let want = usize::try_from(part.length - done).map_or(chunk.len(), |left| left.min(chunk.len()));
            let bytes = &mut chunk[..want];
            reader.read_exact(bytes).map_err(|e| fault(layer, reader.broken(e)))?;
            take(part.offset + done, bytes)?;
            done += want as u64;
        }
    }
    Ok(())
}

/// What a failure means: one of the stream's own is the cap.
fn fault(layer: usize, source: LayerError) -> RootfsError {
    match source {
        LayerError::Read { entry, source } if source.kind() == io::ErrorKind::FileTooLarge => {
            RootfsError::TooMuch { layer: layer + 1, entry }
        }
        source => RootfsError::Layer { layer: layer + 1, source },
    }
}

type Stream<'a> = Layer<Hashing<Capped<Decompressed<'a>>>>;

/// One layer, unpacked and hashed on the way.
struct Pass<'a> {
    layer: usize,
    /// What its decoder may take beyond what is usual.
    extra_memory: usize,
    reader: Stream<'a>,
}

impl<'a> Pass<'a> {
    fn open(layers: &'a dyn Layers, layer: usize, left: u64) -> Result<Self, RootfsError> {
        let open = || decompress(layers.open(layer)?);
        let stream = open().map_err(|source| RootfsError::Open { layer: layer + 1, source })?;
        let extra_memory = stream.extra_memory();
        Ok(Self { layer, extra_memory, reader: Layer::new(Hashing::new(Capped::new(stream, left))) })
    }

    fn next(&mut self) -> Result<Option<(Member, &mut Stream<'a>)>, RootfsError> {
        let member = self.reader.next_member().map_err(|source| fault(self.layer, source))?;
        Ok(member.map(|member| (member, &mut self.reader)))
    }

    fn bytes(&self) -> u64 {
        self.reader.stream().bytes()
    }

    /// Reads to the end and compares the digest; gives back the unpacked length.
    fn finish(self, layers: &dyn Layers, layer: usize) -> Result<u64, RootfsError> {
        let stream = self.reader.drain().map_err(|source| fault(layer, source))?;
        let (actual, bytes) = stream.finish();
        let expected = &layers.diff_ids()[layer];
        if actual == *expected { Ok(bytes) } else { Err(RootfsError::Digest { layer: layer + 1, expected: expected.clone(), actual }) }
    }
}
