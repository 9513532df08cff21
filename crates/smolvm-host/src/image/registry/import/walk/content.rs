//! The content of a file: where there is any, and what is stored of it.
//!
//! Read twice, for a layer says before a file where its holes are. What the file system calls a hole is not looked at; what it calls data
//! is, for the same content is to be the same layer on every one. Whoever writes to it between the two is found out by the walk, afterwards.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use smolvm_oci::Stretches;
use smolvm_oci::ext4::BLOCK;
use smolvm_oci::layer::{Kind, Part};

const CHUNK: usize = 256 << 10;

/// A file whose holes are known. Reading from it gives what is stored of it.
pub(super) struct Content {
    file: File,
    size: u64,
    parts: Option<Vec<Part>>,
    /// Where reading is: in which part, and how far.
    part: usize,
    done: u64,
}

impl Content {
    /// Looks for the holes; stops looking when more than `most` bytes are certain to be stored.
    pub(super) fn of(file: File, size: u64, most: u64) -> io::Result<Self> {
        let parts = if size < Stretches::SHORTEST { None } else { stretches(&file, size, most)?.into_parts(size) };
        Ok(Self { file, size, parts, part: 0, done: 0 })
    }

    /// Bytes that are stored of it.
    pub(super) fn stored(&self) -> u64 {
        self.parts.as_ref().map_or(self.size, |parts| parts.iter().map(|part| part.length).sum())
    }

    /// As a member has it.
    pub(super) fn kind(&self) -> Kind {
        Kind::File { size: self.size, parts: self.parts.clone() }
    }

    fn present(&self) -> Option<Part> {
        match &self.parts {
            Some(parts) => parts.get(self.part).copied(),
            None => (self.part == 0).then_some(Part { offset: 0, length: self.size }),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.present() {
            let left = part.length - self.done;
            if left > 0 {
                let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                let n = self.file.read_at(&mut buffer[..want], part.offset + self.done)?;
                self.done += n as u64;
                return Ok(n);
            }
            (self.part, self.done) = (self.part + 1, 0);
        }
        Ok(0)
    }
}

fn stretches(file: &File, size: u64, most: u64) -> io::Result<Stretches> {
    let mut seen = Stretches::of_member();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    // The last block may end behind the file.
    let most = most.saturating_add(BLOCK);
    while let Some(data) = data(file, at, size)? {
        at = data.start;
        while at < data.end {
            let want = usize::try_from(data.end - at).map_or(CHUNK, |left| left.min(CHUNK));
            file.read_exact_at(&mut chunk[..want], at)?;
            seen.take(at, &chunk[..want]);
            if seen.bytes() > most {
                return Ok(seen);
            }
            at += want as u64;
        }
    }
    // Behind its end there is no data either.
    if file.metadata()?.len() < size { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(seen) }
}

/// The next data, as the file system says; one that knows nothing of holes has nothing else.
fn data(file: &File, at: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.max(at),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => at,
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start)).ok().filter(|end| *end > start).map_or(size, |end| end.min(size));
    Ok((start < end).then_some(start..end))
}
