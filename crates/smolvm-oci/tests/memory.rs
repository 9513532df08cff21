//! What the files of an image take of memory while it is made, as the kernel counts it. Alone in its program: the count is the process's.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use smolvm_oci::Digest;
use smolvm_oci::digest::Hashing;
use smolvm_oci::rootfs::{Layers, Limits, Plan};
use support::{header, told};
use tar::EntryType;

const MIB: usize = 1 << 20;
/// 200 MiB were asked of the program as a whole; what is not images takes less than 16 of them.
const MOST: usize = 184 * MIB;
/// With a hundred in each directory and names of 32 bytes, as packages of the web have them.
const FILES: usize = 600_000;
const EACH: usize = 100;

/// A layer of so many small files, which is never as a whole anywhere.
struct Many {
    left: std::ops::Range<usize>,
    member: io::Cursor<Vec<u8>>,
}

impl Many {
    fn of(files: usize) -> Self {
        Self { left: 0..files, member: io::Cursor::default() }
    }

    fn next_member(&mut self) -> Vec<u8> {
        let Some(n) = self.left.next() else { return Vec::new() };
        let directory = format!("usr/lib/d{:05}/", n / EACH);
        let mut bytes = Vec::new();
        if n % EACH == 0 {
            bytes.extend_from_slice(header(directory.as_bytes(), EntryType::Directory, b"", 0).as_bytes());
        }
        let name = format!("{directory}module-of-the-web-{n:07}.min.js");
        bytes.extend_from_slice(header(name.as_bytes(), EntryType::Regular, b"", 1).as_bytes());
        bytes.push(b'x');
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        if self.left.is_empty() {
            bytes.extend_from_slice(&[0; 1024]);
        }
        bytes
    }
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

/// Such a layer, or what a file has of it.
struct One {
    files: usize,
    packed: Option<File>,
    id: [Digest; 1],
}

impl One {
    fn of(files: usize) -> Self {
        let mut hashing = Hashing::new(io::sink());
        io::copy(&mut Many::of(files), &mut hashing).unwrap();
        Self { files, packed: None, id: [hashing.finish().0] }
    }

    /// Packed with a window of 128 MiB, the largest that is taken.
    fn packed(files: usize) -> Self {
        let mut encoder = zstd::Encoder::new(tempfile::tempfile().unwrap(), 1).unwrap();
        encoder.window_log(27).unwrap();
        io::copy(&mut Many::of(files), &mut encoder).unwrap();
        Self { packed: Some(encoder.finish().unwrap()), ..Self::of(files) }
    }
}

impl Layers for One {
    fn diff_ids(&self) -> &[Digest] {
        &self.id
    }

    fn open(&self, _layer: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        match &self.packed {
            Some(packed) => {
                let mut file = packed.try_clone()?;
                file.rewind()?;
                Ok(Box::new(file))
            }
            None => Ok(Box::new(Many::of(self.files))),
        }
    }
}

/// The most that the process ever had since it was forgotten last.
fn most_resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

fn forget_most_resident() {
    File::options().write(true).open("/proc/self/clear_refs").and_then(|mut file| file.write_all(b"5")).unwrap();
}

fn make(layer: &One) -> Result<usize, String> {
    forget_most_resident();
    let plan = Plan::of(layer, Limits::default(), &mut |_| {}).map_err(|e| told(&e))?;
    plan.write(layer, &Digest::of(b"image"), &tempfile::tempfile().unwrap(), &mut |_| {}).unwrap();
    Ok(most_resident())
}

#[test]
fn many_files_take_less_than_was_promised_and_more_are_refused() {
    // The smaller ones first: what was given back stays with the process for a while.
    let packed = make(&One::packed(FILES / 4)).unwrap();
    println!("{} files and the largest window: {} MiB", FILES / 4, packed / MIB);
    assert!(packed > 140 * MIB && packed < MOST, "{} MiB", packed / MIB);
    refused(&One::packed(FILES / 2));
    let many = make(&One::of(FILES)).unwrap();
    println!("{FILES} files: {} MiB", many / MIB);
    assert!(many > 64 * MIB && many < MOST, "{} MiB", many / MIB);
    refused(&One { files: 2 * FILES, ..One::of(0) });
}

fn refused(layer: &One) {
    let why = make(layer).unwrap_err();
    let most = most_resident();
    assert!(why.contains("more memory than they may"), "{why}");
    assert!(most < MOST, "{} MiB", most / MIB);
}
