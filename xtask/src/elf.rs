//! Just enough ELF to prove that the agent runs in an empty root, and the command without a loader.
//!
//! A static executable has neither an interpreter (`PT_INTERP`) nor a dynamic section
//! (`PT_DYNAMIC`); a wrong flag anywhere on the way to the linker brings one of them back silently.

use anyhow::{Context, Result, bail};

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;
/// A shared object, and an executable that may lie anywhere.
const ET_DYN: u16 = 3;

/// Fails unless `image` is a static x86-64 executable at fixed addresses.
pub(crate) fn check_static(image: &[u8]) -> Result<()> {
    check(image, &[(PT_INTERP, "it names an interpreter (PT_INTERP)"), (PT_DYNAMIC, "it has a dynamic section (PT_DYNAMIC)")])
}

/// Fails unless `image` is an x86-64 executable that the kernel starts without a loader, at addresses of its choice.
pub(crate) fn check_no_loader(image: &[u8]) -> Result<()> {
    if image.len() > 18 && half(image, 16)? != ET_DYN {
        bail!("not position independent (its type is {}, not {ET_DYN})", half(image, 16)?);
    }
    check(image, &[(PT_INTERP, "it names an interpreter (PT_INTERP)")])
}

fn check(image: &[u8], refused: &[(u32, &str)]) -> Result<()> {
    if image.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    if half(image, 18)? != EM_X86_64 {
        bail!("not for x86-64");
    }
    let table = usize::try_from(u64::from_le_bytes(field(image, 32)?))?;
    let (size, count) = (usize::from(half(image, 54)?), usize::from(half(image, 56)?));
    if count == 0 {
        bail!("no program headers");
    }
    for index in 0..count {
        let offset = index.checked_mul(size).and_then(|o| o.checked_add(table)).context("program headers out of range")?;
        let kind = u32::from_le_bytes(field(image, offset)?);
        if let Some((_, why)) = refused.iter().find(|(bad, _)| *bad == kind) {
            bail!("not static: {why}");
        }
    }
    Ok(())
}

fn half(image: &[u8], offset: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(field(image, offset)?))
}

fn field<const N: usize>(image: &[u8], offset: usize) -> Result<[u8; N]> {
    let end = offset.checked_add(N).context("offset out of range")?;
    let bytes = image.get(offset..end).with_context(|| format!("truncated at byte {offset}"))?;
    Ok(bytes.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with the given program header types and nothing else.
    fn image(types: &[u32]) -> Vec<u8> {
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = u8::try_from(types.len()).unwrap();
        for kind in types {
            let mut header = kind.to_le_bytes().to_vec();
            header.resize(56, 0);
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn static_files_pass() {
        check_static(&image(&[1, 1, 4])).unwrap();
        let mut anywhere = image(&[1, PT_DYNAMIC]);
        assert!(check_no_loader(&anywhere).is_err());
        anywhere[16] = 3;
        check_no_loader(&anywhere).unwrap();
    }

    #[test]
    fn interpreter_dynamic_section_and_rubbish_fail() {
        assert!(check_static(&image(&[1, PT_INTERP])).is_err());
        assert!(check_no_loader(&image(&[1, PT_INTERP])).is_err());
        assert!(check_static(&image(&[PT_DYNAMIC, 1])).is_err());
        assert!(check_static(&image(&[])).is_err());
        assert!(check_static(b"#!/bin/sh").is_err());
        let mut cut = image(&[1, 1]);
        cut.truncate(100);
        assert!(check_static(&cut).is_err());
    }

    #[test]
    fn the_test_itself_is_not_static() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(check_static(&own).is_err());
    }
}
