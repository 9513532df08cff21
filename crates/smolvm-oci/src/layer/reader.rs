//! Reads a tar stream member by member. The `tar` crate knows the fields of a header; what follows from them is decided here, because its own
//! reader takes extended headers into memory whatever their length.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::error::{EntryName, LayerError};
use super::member::{Kind, Member, Meta, Time};
use super::pax::Pax;
use super::sparse;

const BLOCK: u64 = 512;
/// Longest extended headers and long names of one member, all together: the attributes of one file, and its paths.
const MAX_HEADER: u64 = 1 << 20;
/// Longest target of a symbolic link, as the kernel has it.
const MAX_TARGET: usize = 4095;

/// A stream of members. Reading from it gives the content of the last one: what is stored of it, without holes.
pub struct Layer<R> {
    stream: R,
    /// Of the present member's content.
    left: u64,
    padding: u64,
    last: EntryName,
    ended: bool,
}

impl<R> std::fmt::Debug for Layer<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("last", &self.last).field("left", &self.left).finish_non_exhaustive()
    }
}

impl<R: Read> Layer<R> {
    /// Of an unpacked stream.
    pub fn new(stream: R) -> Self {
        Self { stream, left: 0, padding: 0, last: EntryName::of(b"its beginning"), ended: false }
    }

    /// The next member; what was not read of the last one is passed over.
    pub fn next_member(&mut self) -> Result<Option<Member>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        self.pass_over()?;
        let mut pax = Pax::default();
        let mut extended = 0;
        loop {
            let Some(header) = self.header()? else {
                self.ended = true;
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::XHeader => {
                    let bytes = self.small(&header, &mut extended)?;
                    pax.read(&bytes, &self.last)?;
                }
                // Of the whole archive: a comment, by every program that writes one.
                EntryType::XGlobalHeader => drop(self.small(&header, &mut extended)?),
                EntryType::GNULongName => pax.path = Some(trimmed(self.small(&header, &mut extended)?)),
                EntryType::GNULongLink => pax.link = Some(trimmed(self.small(&header, &mut extended)?)),
                _ => return self.member(&header, pax).map(Some),
            }
        }
    }

    /// What it reads from.
    pub fn stream(&self) -> &R {
        &self.stream
    }

    /// The rest of the stream, which a digest of all of it needs.
    pub fn drain(mut self) -> Result<R, LayerError> {
        let last = self.last.clone();
        io::copy(&mut self.stream, &mut io::sink()).map_err(|source| LayerError::Read { entry: last, source })?;
        Ok(self.stream)
    }

    fn member(&mut self, header: &Header, mut pax: Pax) -> Result<Member, LayerError> {
        let path = match (pax.sparse_name.take(), pax.path.take()) {
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => header.path_bytes().into_owned(),
        };
        let entry = EntryName::of(&path);
        self.last = entry.clone();
        if let Some(name) = pax.unfit.take() {
            return Err(LayerError::Xattr { entry, name });
        }
        let number = |value: io::Result<u64>, field| value.map_err(|_| LayerError::Number { entry: entry.clone(), field });
        let said = match pax.size {
            Some(size) => size,
            None => number(header.entry_size(), "size")?,
        };
        let stored = if is_header_only(header.entry_type()) { 0 } else { said };
        let id = |pax: Option<u64>, value: io::Result<u64>, field| {
            u32::try_from(pax.map_or_else(|| number(value, field), Ok)?).map_err(|_| LayerError::Number { entry: entry.clone(), field })
        };
        let mode = header.mode().map_err(|_| LayerError::Number { entry: entry.clone(), field: "mode" })?;
        let mtime = match pax.mtime {
            Some(time) => time,
            // A number in base 256 has a sign, which is here as it stands in the header.
            None => Time { seconds: number(header.mtime(), "time")?.cast_signed(), nanoseconds: 0 },
        };
        let meta = Meta {
            mode: u16::try_from(mode & 0o7777).unwrap_or_default(),
            uid: id(pax.uid, header.uid(), "owner")?,
            gid: id(pax.gid, header.gid(), "group")?,
            mtime,
            xattrs: std::mem::take(&mut pax.xattrs).into(),
        };
        self.expect(stored);
        let kind = self.kind(header, &pax, stored, &path, &entry)?;
        Ok(Member { path, meta, kind })
    }

    fn kind(&mut self, header: &Header, pax: &Pax, stored: u64, path: &[u8], entry: &EntryName) -> Result<Kind, LayerError> {
        let device = |value: io::Result<Option<u32>>| {
            value.ok().flatten().ok_or(LayerError::Number { entry: entry.clone(), field: "device number" })
        };
        let target = || pax.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let kind = match header.entry_type() {
            // Old archives have no type for directories: their names end with a slash.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => return self.file(pax, stored, entry),
            EntryType::GNUSparse => return self.old_sparse(header, stored, entry),
            EntryType::Link => Kind::Link { target: target() },
            EntryType::Symlink => {
                let target = target();
                if target.is_empty() || target.len() > MAX_TARGET || target.contains(&0) {
                    return Err(LayerError::Target { entry: entry.clone() });
                }
                Kind::Symlink { target }
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Char => Kind::Char { major: device(header.device_major())?, minor: device(header.device_minor())? },
            EntryType::Block => Kind::Block { major: device(header.device_major())?, minor: device(header.device_minor())? },
            EntryType::Fifo => Kind::Fifo,
            other => return Err(LayerError::Kind { entry: entry.clone(), kind: char::from(other.as_byte()) }),
        };
        Ok(kind)
    }

    fn file(&mut self, pax: &Pax, stored: u64, entry: &EntryName) -> Result<Kind, LayerError> {
        match (pax.sparse, pax.sparse_size) {
            (None, None) => Ok(Kind::File { size: stored, parts: None }),
            (Some((1, 0)), Some(size)) => {
                let (parts, taken) = sparse::new(self, entry)?;
                let parts = sparse::check(parts, size, stored.saturating_sub(taken), entry)?;
                Ok(Kind::File { size, parts: Some(parts) })
            }
            _ => Err(LayerError::Sparse { entry: entry.clone() }),
        }
    }

    fn old_sparse(&mut self, header: &Header, stored: u64, entry: &EntryName) -> Result<Kind, LayerError> {
        let gnu = header.as_gnu().ok_or(LayerError::Sparse { entry: entry.clone() })?;
        let size = gnu.real_size().map_err(|_| LayerError::Number { entry: entry.clone(), field: "size" })?;
        // The rest of the map lies before the content.
        let parts = sparse::old(gnu, || self.block().and_then(|block| block.ok_or(LayerError::Truncated { entry: entry.clone() })), entry)?;
        Ok(Kind::File { size, parts: Some(sparse::check(parts, size, stored, entry)?) })
    }

    /// The next header, unless the archive ends here: with zeros, or with nothing at all.
    fn header(&mut self) -> Result<Option<Header>, LayerError> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
        if header.cksum().is_ok_and(|said| said == sum) { Ok(Some(header)) } else { Err(LayerError::Header { entry: self.last.clone() }) }
    }

    /// A header's own content; `extended` is what came before the same member.
    fn small(&mut self, header: &Header, extended: &mut u64) -> Result<Vec<u8>, LayerError> {
        let size = header.entry_size().map_err(|_| LayerError::Number { entry: self.last.clone(), field: "size" })?;
        *extended = extended.saturating_add(size);
        if *extended > MAX_HEADER {
            return Err(LayerError::HeaderSize { entry: self.last.clone(), size: *extended });
        }
        self.expect(size);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.read_exact(&mut bytes).map_err(|e| self.broken(e))?;
        self.pass_over()?;
        Ok(bytes)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK - size % BLOCK) % BLOCK;
    }

    fn block(&mut self) -> Result<Option<[u8; 512]>, LayerError> {
        let mut block = [0; 512];
        let mut have = 0;
        while have < block.len() {
            match self.stream.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(LayerError::Truncated { entry: self.last.clone() }),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LayerError::Read { entry: self.last.clone(), source }),
            }
        }
        Ok(Some(block))
    }

    fn pass_over(&mut self) -> Result<(), LayerError> {
        let skip = self.left.saturating_add(self.padding);
        let passed = io::copy(&mut self.stream.by_ref().take(skip), &mut io::sink());
        (self.left, self.padding) = (0, 0);
        match passed {
            Ok(n) if n == skip => Ok(()),
            Ok(_) => Err(LayerError::Truncated { entry: self.last.clone() }),
            Err(e) => Err(self.broken(e)),
        }
    }

    /// What a failure to read content means.
    pub(crate) fn broken(&self, source: io::Error) -> LayerError {
        let entry = self.last.clone();
        if source.kind() == io::ErrorKind::UnexpectedEof { LayerError::Truncated { entry } } else { LayerError::Read { entry, source } }
    }
}

impl<R: Read> Read for Layer<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.stream.read(&mut buffer[..want])?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Kinds that have no content, whatever size their header says: old programs write that of the file a link leads to, and what others unpack
/// layers with knows it.
fn is_header_only(kind: EntryType) -> bool {
    matches!(kind, EntryType::Link | EntryType::Symlink | EntryType::Directory | EntryType::Char | EntryType::Block | EntryType::Fifo)
}

/// Long names end with a NUL.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}
