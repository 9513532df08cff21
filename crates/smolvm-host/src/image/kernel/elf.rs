//! The little of ELF that is needed: does a `vmlinux` boot by PVH, and what does a module depend on?
//!
//! Every offset is taken from the file and so is checked; only 64-bit little-endian x86 is read.

use std::ops::Range;

const EHDR: usize = 64;
const EXECUTABLE: u16 = 2;
const RELOCATABLE: u16 = 1;
const X86_64: u16 = 62;
const SEGMENT_NOTE: u32 = 4;
/// `SHT_NOBITS`: zeros that take no room in the file.
const NO_BITS: u32 = 8;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where a PVH loader jumps to.
const PVH_NOTE: u32 = 18;
/// More headers than any kernel or module has.
const HEADER_CAP: u16 = 4096;

/// Why a file is not the ELF that is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// No magic, or not for this machine.
    #[error("it is not a 64-bit x86 ELF file")]
    NotElf,
    /// An object instead of a program, or the other way round.
    #[error("it is an ELF file of type {found}, not {wanted}")]
    WrongType {
        /// `e_type` of the file.
        found: u16,
        /// `e_type` that is needed.
        wanted: u16,
    },
    /// A header or a section lies outside the file.
    #[error("its headers lead outside the file")]
    OutOfBounds,
    /// It cannot be booted without a boot loader's help.
    #[error("it has no PVH entry point")]
    NoPvh,
    /// It says nothing about itself.
    #[error("it has no .modinfo section")]
    NoModinfo,
}

/// Checks that `file` is a kernel with a PVH entry point.
pub(super) fn check_kernel(file: &[u8]) -> Result<(), ElfError> {
    check_header(file, EXECUTABLE)?;
    for header in table(file, 32, 54, 56, 56)? {
        if u32_at(header, 0)? != SEGMENT_NOTE {
            continue;
        }
        let notes = file.get(range(u64_at(header, 8)?, u64_at(header, 32)?)?).ok_or(ElfError::OutOfBounds)?;
        if has_pvh_note(notes) {
            return Ok(());
        }
    }
    Err(ElfError::NoPvh)
}

/// The `.modinfo` section of a kernel module: `key=value` texts, each ended by a zero.
pub(super) fn modinfo(file: &[u8]) -> Result<Vec<&str>, ElfError> {
    let text = sections(file)?.into_iter().find(|section| section.name == b".modinfo").ok_or(ElfError::NoModinfo)?.content;
    Ok(text.split(|b| *b == 0).filter_map(|item| std::str::from_utf8(item).ok()).filter(|item| !item.is_empty()).collect())
}

/// A section of a kernel module.
pub(super) struct Section<'a> {
    /// As it stands in the file.
    pub(super) header: &'a [u8; 64],
    pub(super) name: &'a [u8],
    /// `sh_type`.
    pub(super) kind: u32,
    /// `sh_link`: the section of its symbols or names.
    pub(super) link: usize,
    /// `sh_info`: for relocations, the section they are for.
    pub(super) info: usize,
    /// Nothing for a section that has no bytes in the file.
    pub(super) content: &'a [u8],
}

/// All sections of a kernel module, in the order of their numbers.
pub(super) fn sections<'a>(file: &'a [u8]) -> Result<Vec<Section<'a>>, ElfError> {
    check_header(file, RELOCATABLE)?;
    let headers = table(file, 40, 58, 60, 64)?;
    let names = headers.get(usize::from(u16_at(file, 62)?)).ok_or(ElfError::OutOfBounds)?;
    let names = section(file, names)?;
    let size = |n: u32| usize::try_from(n).map_err(|_| ElfError::OutOfBounds);
    let read = |header: &'a [u8]| {
        let kind = u32_at(header, 4)?;
        let name = names.get(size(u32_at(header, 0)?)?..).unwrap_or_default();
        Ok(Section {
            header: header.first_chunk().ok_or(ElfError::OutOfBounds)?,
            name: name.split(|b| *b == 0).next().unwrap_or_default(),
            kind,
            link: size(u32_at(header, 40)?)?,
            info: size(u32_at(header, 44)?)?,
            content: if kind == NO_BITS { &[] } else { section(file, header)? },
        })
    };
    headers.into_iter().map(read).collect()
}

fn check_header(file: &[u8], wanted: u16) -> Result<(), ElfError> {
    // Magic, 64 bits, little-endian, version 1.
    if file.len() < EHDR || !file.starts_with(b"\x7fELF\x02\x01\x01") || u16_at(file, 18)? != X86_64 {
        return Err(ElfError::NotElf);
    }
    let found = u16_at(file, 16)?;
    if found == wanted { Ok(()) } else { Err(ElfError::WrongType { found, wanted }) }
}

/// A table of headers, given where the file header keeps its offset, its entries' size and their number.
fn table(file: &[u8], offset_at: usize, size_at: usize, count_at: usize, least: u16) -> Result<Vec<&[u8]>, ElfError> {
    let (offset, size, count) = (u64_at(file, offset_at)?, u16_at(file, size_at)?, u16_at(file, count_at)?);
    if size < least || count > HEADER_CAP {
        return Err(ElfError::OutOfBounds);
    }
    let bytes = file.get(range(offset, u64::from(size) * u64::from(count))?).ok_or(ElfError::OutOfBounds)?;
    Ok(bytes.chunks_exact(usize::from(size)).collect())
}

fn section<'a>(file: &'a [u8], header: &[u8]) -> Result<&'a [u8], ElfError> {
    file.get(range(u64_at(header, 24)?, u64_at(header, 32)?)?).ok_or(ElfError::OutOfBounds)
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    // name size, description size, type; name and description each padded to four bytes.
    while let (Ok(name), Ok(description), Ok(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        if kind == PVH_NOTE && name == 4 && description >= 4 && notes.get(12..16) == Some(b"Xen\0") {
            return true;
        }
        let padded = |size: u32| usize::try_from(size).ok().and_then(|size| size.checked_next_multiple_of(4));
        let length = padded(name).zip(padded(description)).and_then(|(n, d)| n.checked_add(d)?.checked_add(12));
        match length.and_then(|length| notes.get(length..)) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

fn range(start: u64, length: u64) -> Result<Range<usize>, ElfError> {
    let end = start.checked_add(length).ok_or(ElfError::OutOfBounds)?;
    let convert = |n| usize::try_from(n).map_err(|_| ElfError::OutOfBounds);
    Ok(convert(start)?..convert(end)?)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ElfError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(ElfError::OutOfBounds)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, ElfError> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, ElfError> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Result<u64, ElfError> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(kind: u16) -> Vec<u8> {
        let mut file = vec![0; EHDR];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&X86_64.to_le_bytes());
        file
    }

    pub(crate) fn kernel(notes: &[u8]) -> Vec<u8> {
        let mut file = header(EXECUTABLE);
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        let mut segment = vec![0; 56];
        segment[..4].copy_from_slice(&SEGMENT_NOTE.to_le_bytes());
        segment[8..16].copy_from_slice(&120_u64.to_le_bytes());
        segment[32..40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
        file.extend(segment);
        file.extend(notes);
        file
    }

    fn note(kind: u32) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [4, 4, kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"Xen\0\0\0\0\x01");
        note
    }

    /// A module with this `.modinfo`.
    pub(crate) fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut file = header(RELOCATABLE);
        file[40..48].copy_from_slice(&64_u64.to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&2_u16.to_le_bytes());
        let data = 64 + 2 * 64;
        for (name, offset, length) in [(1_u32, data, names.len()), (11, data + names.len(), modinfo.len())] {
            let mut section = vec![0; 64];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(section);
        }
        file.extend(names);
        file.extend(modinfo);
        file
    }

    #[test]
    fn the_pvh_note_is_found_behind_others() {
        let notes = [note(3), note(PVH_NOTE)].concat();
        assert_eq!(check_kernel(&kernel(&notes)), Ok(()));
        assert_eq!(check_kernel(&kernel(&note(3))), Err(ElfError::NoPvh));
        assert_eq!(check_kernel(&kernel(b"")), Err(ElfError::NoPvh));
    }

    #[test]
    fn modinfo_is_read() {
        assert_eq!(modinfo(&module(b"name=a\0\0depends=b,c\0")).unwrap(), ["name=a", "depends=b,c"]);
    }

    #[test]
    fn the_wrong_kind_and_lying_headers_are_refused() {
        assert_eq!(check_kernel(b"\x7fELF"), Err(ElfError::NotElf));
        assert_eq!(check_kernel(&module(b"")), Err(ElfError::WrongType { found: 1, wanted: 2 }));
        let with = |mut file: Vec<u8>, at: usize, bytes: &[u8]| {
            file[at..at + bytes.len()].copy_from_slice(bytes);
            file
        };
        let far = &[0xff; 8];
        assert_eq!(check_kernel(&with(kernel(&note(18)), 32, far)), Err(ElfError::OutOfBounds));
        assert_eq!(check_kernel(&with(kernel(&note(18)), 64 + 8, far)), Err(ElfError::OutOfBounds));
        assert_eq!(check_kernel(&with(kernel(&note(18)), 56, &[0xff; 2])), Err(ElfError::OutOfBounds));
        assert_eq!(check_kernel(&with(kernel(&note(18)), 54, &[0; 2])), Err(ElfError::OutOfBounds));
        assert_eq!(modinfo(&with(module(b"x"), 62, &[9, 0])), Err(ElfError::OutOfBounds));
        assert_eq!(modinfo(&with(module(b"x"), 64 + 24, far)), Err(ElfError::OutOfBounds));
        assert_eq!(modinfo(&with(module(b"x"), 128, &[0; 4])), Err(ElfError::NoModinfo));
    }

    proptest! {
        #[test]
        fn no_file_panics(edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..40), notes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for mut file in [kernel(&notes), kernel(&note(18)), module(&notes)] {
                for (at, value) in &edits {
                    let at = at % file.len();
                    // Keep the magic, or every case ends there.
                    if at >= 20 {
                        file[at] = *value;
                    }
                }
                let _ = check_kernel(&file);
                let _ = modinfo(&file);
                let _ = has_pvh_note(&notes);
            }
        }
    }
}
