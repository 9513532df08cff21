//! Takes out of a kernel module what a guest pays for at each boot and never reads.
//!
//! ```text
//!   .BTF                        types for programs of the tracing machinery
//!   .orc_unwind, .orc_unwind_ip how to walk a stack through it: sorted at load, needed for a pretty oops
//!   __mcount_loc                where the function tracer could hook in: each place is looked up at load;
//!     call __fentry__  ──►  nop the calls themselves, which the kernel would otherwise turn into this
//! ```
//! Nine modules lose a quarter of their bytes and 13 of some 30 million guest instructions of their loading. What
//! is lost is tracing *into these modules* from inside the guest; the kernel itself keeps all of it.
//!
//! A section goes by losing name, type and flags, so that no number of another section changes; the sections that
//! stay are laid out anew. A module that is not as expected is left as it is: it loads all the same.

use std::collections::BTreeSet;

use super::elf::{ElfError, Section, sections, u16_at, u32_at, u64_at};

const DROPPED: [&[u8]; 5] = [b".BTF", b".orc_unwind", b".orc_unwind_ip", b".comment", b".note.GNU-stack"];
const TRACE_POINTS: &[u8] = b"__mcount_loc";
const TRACER: &[u8] = b"__fentry__";

const NULL: u32 = 0;
const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 4;
const NO_BITS: u32 = 8;
const RELOCATION: usize = 24;
const SYMBOL: usize = 24;
const PC32: u32 = 2;
const PLT32: u32 = 4;
/// `call` with a four-byte distance, and the five-byte `nop` of the kernel's own choice.
const CALL: u8 = 0xe8;
const NOP: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// The module without them; one that is not as expected as it is.
pub(in crate::image) fn slim(module: &[u8]) -> Vec<u8> {
    slimmed(module).unwrap_or_else(|_| module.to_vec())
}

fn slimmed(module: &[u8]) -> Result<Vec<u8>, ElfError> {
    let found = sections(module)?;
    // Sections of a module do not overlap: together they are no longer than it, and neither is what is made of them.
    let together = found.iter().try_fold(0_usize, |sum, s| sum.checked_add(s.content.len())?.checked_add(s.name.len()));
    if together.is_none_or(|sum| sum > 2 * module.len()) {
        return Err(ElfError::OutOfBounds);
    }
    let mut parts: Vec<Part> = found.iter().map(Part::of).collect();
    let traced = untrace(&mut parts)?;
    for index in 0..parts.len() {
        let name = parts[index].name.as_slice();
        if DROPPED.contains(&name) || (traced && name == TRACE_POINTS) {
            drop_section(&mut parts, index);
        }
    }
    let slim = lay_out(module, &parts)?;
    // A hostile module may have its table of names dropped, or patched as if it were code: what is left must be what it was.
    let kept = |(part, left): (&Part, Section<'_>)| part.kind == left.kind && (part.kind == NULL || part.name == left.name);
    if parts.iter().zip(sections(&slim)?).all(kept) { Ok(slim) } else { Err(ElfError::OutOfBounds) }
}

/// A section that may change.
struct Part {
    header: [u8; 64],
    name: Vec<u8>,
    kind: u32,
    link: usize,
    info: usize,
    content: Vec<u8>,
}

impl Part {
    fn of(section: &Section<'_>) -> Self {
        let Section { header, name, kind, link, info, content } = *section;
        Self { header: *header, name: name.to_vec(), kind, link, info, content: content.to_vec() }
    }
}

/// The section, and the relocations that are for it alone.
fn drop_section(parts: &mut [Part], index: usize) {
    for (at, part) in parts.iter_mut().enumerate() {
        if at == index || (part.kind == RELOCATIONS && part.info == index) {
            part.kind = NULL;
            part.header = [0; 64];
            part.content.clear();
        }
    }
}

/// Turns every call of the tracer into a `nop`; false, and nothing changed, where one is no plain call.
fn untrace(parts: &mut [Part]) -> Result<bool, ElfError> {
    if !parts.iter().any(|part| part.name == TRACE_POINTS) {
        return Ok(false);
    }
    let mut calls = Vec::new();
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| part.kind == RELOCATIONS) {
        let (symbols, code) = (parts.get(part.link).ok_or(ElfError::OutOfBounds)?, parts.get(part.info).ok_or(ElfError::OutOfBounds)?);
        for (number, relocation) in part.content.chunks_exact(RELOCATION).enumerate() {
            if !is_tracer(parts, symbols, u32_at(relocation, 12)?)? {
                continue;
            }
            let call = usize::try_from(u64_at(relocation, 0)?).ok().and_then(|at| at.checked_sub(1)).ok_or(ElfError::OutOfBounds)?;
            let plain = matches!(u32_at(relocation, 8)?, PC32 | PLT32) && code.content.get(call) == Some(&CALL);
            if !plain || code.content.len() < call.saturating_add(NOP.len()) {
                return Ok(false);
            }
            calls.push((part.info, call, at, number));
        }
    }
    for (code, call, _, _) in &calls {
        parts[*code].content[*call..call + NOP.len()].copy_from_slice(&NOP);
    }
    for (at, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.kind == RELOCATIONS) {
        let gone: BTreeSet<usize> = calls.iter().filter(|call| call.2 == at).map(|call| call.3).collect();
        if !gone.is_empty() {
            let kept = part.content.chunks_exact(RELOCATION).enumerate().filter(|(number, _)| !gone.contains(number));
            part.content = kept.flat_map(|(_, relocation)| relocation.to_vec()).collect();
        }
    }
    Ok(true)
}

fn is_tracer(parts: &[Part], symbols: &Part, index: u32) -> Result<bool, ElfError> {
    if symbols.kind != SYMBOLS {
        return Err(ElfError::OutOfBounds);
    }
    let names = parts.get(symbols.link).ok_or(ElfError::OutOfBounds)?;
    let at = usize::try_from(index).ok().and_then(|index| index.checked_mul(SYMBOL)).ok_or(ElfError::OutOfBounds)?;
    let name = usize::try_from(u32_at(symbols.content.get(at..).ok_or(ElfError::OutOfBounds)?, 0)?).map_err(|_| ElfError::OutOfBounds)?;
    Ok(names.content.get(name..).is_some_and(|rest| rest.strip_prefix(TRACER).is_some_and(|rest| rest.first() == Some(&0))))
}

/// File header, the contents one after the other, the table of sections.
fn lay_out(module: &[u8], parts: &[Part]) -> Result<Vec<u8>, ElfError> {
    // `e_shentsize`: a table of wider entries than are known is left alone.
    if usize::from(u16_at(module, 58)?) != 64 {
        return Err(ElfError::OutOfBounds);
    }
    let mut out = module.get(..64).ok_or(ElfError::OutOfBounds)?.to_vec();
    let mut table = Vec::with_capacity(parts.len() * 64);
    for part in parts {
        let mut header = part.header;
        if part.kind != NULL {
            let align = usize::try_from(u64_at(&header, 48)?).ok().filter(|align| *align <= 4096).ok_or(ElfError::OutOfBounds)?;
            out.resize(out.len().next_multiple_of(align.max(1)), 0);
            header[24..32].copy_from_slice(&(out.len() as u64).to_le_bytes());
            if part.kind != NO_BITS {
                header[32..40].copy_from_slice(&(part.content.len() as u64).to_le_bytes());
                out.extend_from_slice(&part.content);
            }
        }
        table.extend_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let at = out.len() as u64;
    out[40..48].copy_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&table);
    Ok(out)
}

#[cfg(test)]
mod tests;
