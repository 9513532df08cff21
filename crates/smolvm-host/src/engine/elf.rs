//! Reads from an ELF file the loader it asks for.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PT_INTERP: u32 = 3;
/// Program headers and path lengths beyond these are not a program's.
const HEADERS_CAP: u16 = 64;
const PATH_CAP: u64 = 256;

/// The loader in the file's `PT_INTERP`; `None` for a static executable.
pub(super) fn interpreter(path: &Path) -> std::io::Result<Option<PathBuf>> {
    let file = File::open(path)?;
    let bad = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    // 64-bit, little-endian.
    if head[..6] != *b"\x7fELF\x02\x01" {
        return Err(bad());
    }
    let table = u64_at(&head, 32);
    let (size, count) = (u16_at(&head, 54), u16_at(&head, 56));
    if size != 56 || count > HEADERS_CAP {
        return Err(bad());
    }
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        file.read_exact_at(&mut entry, table.checked_add(index * 56).ok_or_else(bad)?)?;
        if u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) != PT_INTERP {
            continue;
        }
        let length = u64_at(&entry, 32);
        let length = usize::try_from(length).ok().filter(|_| (2..=PATH_CAP).contains(&length)).ok_or_else(bad)?;
        let mut name = vec![0; length];
        file.read_exact_at(&mut name, u64_at(&entry, 8))?;
        if name.pop() != Some(0) || name.first() != Some(&b'/') {
            return Err(bad());
        }
        return Ok(Some(OsString::from_vec(name).into()));
    }
    Ok(None)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_names_its_loader() {
        let loader = interpreter(Path::new("/proc/self/exe")).unwrap().unwrap();
        assert!(loader.is_absolute() && loader.exists());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for content in [&b""[..], b"#!/bin/sh\n", &[0; 200], &b"\x7fELF\x02\x01".repeat(40)] {
            std::fs::write(&path, content).unwrap();
            assert!(interpreter(&path).is_err(), "{content:?}");
        }
    }
}
