//! Layers of very many members, and what an image of them takes of memory, as the kernel counts it. Each test that counts is alone in its
//! program: the count is the process's, and what was given back stays with it for a while.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use smolvm_oci::Digest;
use smolvm_oci::digest::Hashing;
use smolvm_oci::rootfs::{Layers, Limits, Plan};
use tar::EntryType;

use super::{Archive, header, told};

pub const MIB: usize = 1 << 20;
/// Files in a directory: with names of 32 bytes, as packages of the web have them.
const EACH: usize = 100;
/// As many as a file may have.
const MOST_NAMES: usize = 65_000;

/// Members that are never as a whole anywhere: the n-th of so many.
struct Many {
    left: std::ops::Range<usize>,
    make: fn(usize) -> Vec<u8>,
    member: io::Cursor<Vec<u8>>,
}

impl Many {
    fn of(count: usize, make: fn(usize) -> Vec<u8>) -> Self {
        Self { left: 0..count, make, member: io::Cursor::default() }
    }

    fn next_member(&mut self) -> Vec<u8> {
        let Some(n) = self.left.next() else { return Vec::new() };
        let mut bytes = (self.make)(n);
        if self.left.is_empty() {
            bytes.extend_from_slice(&[0; 1024]);
        }
        bytes
    }
}

/// A small file, before the first of a hundred their directory.
pub fn file(n: usize) -> Vec<u8> {
    let directory = format!("usr/lib/d{:05}/", n / EACH);
    let mut bytes = Vec::new();
    if n.is_multiple_of(EACH) {
        bytes.extend_from_slice(header(directory.as_bytes(), EntryType::Directory, b"", 0).as_bytes());
    }
    let name = format!("{directory}module-of-the-web-{n:07}.min.js");
    bytes.extend_from_slice(header(name.as_bytes(), EntryType::Regular, b"", 1).as_bytes());
    bytes.push(b'x');
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Another long name of one file of very few: names are all that such a layer takes.
pub fn name(n: usize) -> Vec<u8> {
    let first = n / MOST_NAMES * MOST_NAMES;
    let named = |n: usize| Archive::new().pax(&[("path", format!("d/{n:0>250}").as_bytes())]);
    if n == first {
        return named(n).file("x", "").unfinished();
    }
    let (path, target) = (format!("d/{n:0>250}"), format!("d/{first:0>250}"));
    Archive::new().pax(&[("path", path.as_bytes()), ("linkpath", target.as_bytes())]).link("x", "x").unfinished()
}

/// Hides all of them.
pub fn opaque(_: usize) -> Vec<u8> {
    Archive::new().file("d/.wh..wh..opq", "").unfinished()
}

/// Hides everything: of the root there is nothing to be made on the way.
pub fn nothing_left(_: usize) -> Vec<u8> {
    Archive::new().file(".wh..wh..opq", "").unfinished()
}

impl Read for Many {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self.member.read(bytes)? {
            0 => {
                self.member = io::Cursor::new(self.next_member());
                self.member.read(bytes)
            }
            read => Ok(read),
        }
    }
}

/// How many members, each of them, and where they are packed.
type Layer = (usize, fn(usize) -> Vec<u8>, Option<File>);

/// Layers of such members, made while they are read, or packed in a file.
#[derive(Default)]
pub struct Image {
    layers: Vec<Layer>,
    ids: Vec<Digest>,
}

impl Image {
    pub fn with(mut self, count: usize, make: fn(usize) -> Vec<u8>) -> Self {
        let mut hashing = Hashing::new(io::sink());
        io::copy(&mut Many::of(count, make), &mut hashing).unwrap();
        self.ids.push(hashing.finish().0);
        self.layers.push((count, make, None));
        self
    }

    /// The last of them packed with a window of 128 MiB, the largest that is taken.
    pub fn packed(mut self) -> Self {
        let (count, make, packed) = self.layers.last_mut().unwrap();
        let mut encoder = zstd::Encoder::new(tempfile::tempfile().unwrap(), 1).unwrap();
        encoder.window_log(27).unwrap();
        io::copy(&mut Many::of(*count, *make), &mut encoder).unwrap();
        *packed = Some(encoder.finish().unwrap());
        self
    }

    /// One more of these whose digest nobody comes to.
    pub fn with_more(mut self, count: usize, make: fn(usize) -> Vec<u8>) -> Self {
        self.ids.push(Digest::of(b""));
        self.layers.push((count, make, None));
        self
    }
}

impl Layers for Image {
    fn diff_ids(&self) -> &[Digest] {
        &self.ids
    }

    fn open(&self, layer: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        let (count, make, packed) = &self.layers[layer];
        match packed {
            Some(packed) => {
                let mut file = packed.try_clone()?;
                file.rewind()?;
                Ok(Box::new(file))
            }
            None => Ok(Box::new(Many::of(*count, *make))),
        }
    }
}

/// The most that the process ever had since it was forgotten last.
pub fn most_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn forget_most_resident() {
    File::options().write(true).open("/proc/self/clear_refs").and_then(|mut file| file.write_all(b"5")).unwrap();
}

pub fn make(image: &Image) -> Result<usize, String> {
    forget_most_resident();
    let plan = Plan::of(image, Limits::default(), &mut |_| {}).map_err(|e| told(&e))?;
    plan.write(image, &Digest::of(b"image"), &tempfile::tempfile().unwrap(), &mut |_| {}).unwrap();
    Ok(most_resident())
}
