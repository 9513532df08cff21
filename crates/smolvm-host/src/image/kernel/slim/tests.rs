use proptest::prelude::*;

use super::super::elf::sections;
use super::*;

const BITS: u32 = 1;
const STRINGS: u32 = 3;

/// `call __fentry__; ret; call other; ret`
const CODE: [u8; 12] = [CALL, 0, 0, 0, 0, 0xc3, CALL, 0, 0, 0, 0, 0xc3];
const CODE_SECTION: usize = 1;
const SYMBOL_SECTION: u32 = 3;

fn words(list: &[u64]) -> Vec<u8> {
    list.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Offset, symbol and kind, addend.
fn relocation(offset: u64, symbol: u64, kind: u32) -> Vec<u8> {
    words(&[offset, symbol << 32 | u64::from(kind), (-4_i64).cast_unsigned()])
}

/// Name, type, link, info, alignment, content.
type Part = (&'static str, u32, u32, u32, u64, Vec<u8>);

fn symbol(name: u64) -> Vec<u8> {
    words(&[name, 0, 0])
}

/// A module that has something of everything, with this kind of relocation at its call of the tracer.
fn module(call: u32) -> Vec<u8> {
    let strings = b"\0__fentry__\0__fentry__not\0".to_vec();
    let code_relocations = [relocation(1, 1, call), relocation(7, 2, PLT32)].concat();
    let parts: Vec<Part> = vec![
        ("", NULL, 0, 0, 0, Vec::new()),
        (".text", BITS, 0, 0, 16, CODE.to_vec()),
        (".rela.text", RELOCATIONS, SYMBOL_SECTION, 1, 8, code_relocations),
        (".symtab", SYMBOLS, 4, 1, 8, [symbol(0), symbol(1), symbol(12)].concat()),
        (".strtab", STRINGS, 0, 0, 1, strings),
        ("__mcount_loc", BITS, 0, 0, 1, vec![0; 8]),
        (".rela__mcount_loc", RELOCATIONS, SYMBOL_SECTION, 5, 8, relocation(0, 2, 1)),
        (".BTF", BITS, 0, 0, 1, vec![7; 100]),
        (".bss", NO_BITS, 0, 0, 32, vec![0; 4000]),
        (".orc_unwind_ip", BITS, 0, 0, 1, vec![1; 4]),
        (".rela.orc_unwind_ip", RELOCATIONS, SYMBOL_SECTION, 9, 8, relocation(0, 2, PC32)),
        (".modinfo", BITS, 0, 0, 1, b"name=x\0".to_vec()),
    ];
    let names = parts.iter().map(|part| part.0).chain([".shstrtab", ""]).collect::<Vec<_>>().join("\0");
    let count = u16::try_from(parts.len() + 1).unwrap();
    let (mut body, mut table, mut name_at) = (vec![0_u8; 64], Vec::new(), 0_u32);
    let own = (".shstrtab", STRINGS, 0, 0, 1, names.clone().into_bytes());
    for (name, kind, link, info, align, content) in parts.into_iter().chain([own]) {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&name_at.to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        if kind != NULL {
            header[24..32].copy_from_slice(&(body.len() as u64).to_le_bytes());
        }
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        header[40..44].copy_from_slice(&link.to_le_bytes());
        header[44..48].copy_from_slice(&info.to_le_bytes());
        header[48..56].copy_from_slice(&align.to_le_bytes());
        table.extend(header);
        name_at += u32::try_from(name.len() + 1).unwrap();
        if kind != NO_BITS {
            body.extend(content);
        }
    }
    let table_at = body.len() as u64;
    body[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    body[16..18].copy_from_slice(&1_u16.to_le_bytes());
    body[18..20].copy_from_slice(&62_u16.to_le_bytes());
    body[40..48].copy_from_slice(&table_at.to_le_bytes());
    body[58..60].copy_from_slice(&64_u16.to_le_bytes());
    body[60..62].copy_from_slice(&count.to_le_bytes());
    body[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    body.extend(table);
    body
}

fn names(module: &[u8]) -> Vec<String> {
    sections(module).unwrap().iter().map(|s| String::from_utf8_lossy(s.name).into_owned()).collect()
}

#[test]
fn what_no_guest_reads_goes_and_no_number_changes() {
    let (before, after) = (module(PLT32), slim(&module(PLT32)));
    let kept = [".text", ".rela.text", ".symtab", ".strtab", ".bss", ".modinfo", ".shstrtab"];
    let expected: Vec<String> =
        names(&before).into_iter().map(|name| if kept.contains(&name.as_str()) { name } else { String::new() }).collect();
    assert_eq!(names(&after), expected);
    assert!(after.len() < before.len());
    for (old, new) in sections(&before).unwrap().iter().zip(sections(&after).unwrap()) {
        if new.kind == NULL {
            assert_eq!(new.header, &[0; 64]);
            continue;
        }
        // Everything of the header but where the bytes are, and how many.
        assert_eq!((&old.header[..24], &old.header[40..]), (&new.header[..24], &new.header[40..]));
        let (at, align) = (u64_at(new.header, 24).unwrap(), u64_at(new.header, 48).unwrap());
        assert_eq!(at % align.max(1), 0);
    }
    assert_eq!(super::super::elf::modinfo(&after).unwrap(), ["name=x"]);
}

#[test]
fn a_module_whose_names_would_go_stays_as_it_is() {
    let mut odd = module(PLT32);
    let at = odd.windows(9).position(|part| part == b".shstrtab").unwrap();
    odd[at..at + 9].copy_from_slice(b".comment\0");
    assert_eq!(slim(&odd), odd);
}

#[test]
fn calls_of_the_tracer_are_nops_and_others_stay() {
    for kind in [PC32, PLT32] {
        let after = slim(&module(kind));
        let parts = sections(&after).unwrap();
        assert_eq!(parts[CODE_SECTION].content, [&NOP[..], &CODE[5..]].concat());
        assert_eq!(parts[2].content, relocation(7, 2, PLT32), "the call of a function that is only named alike");
    }
}

#[test]
fn a_tracer_that_is_called_otherwise_keeps_its_places() {
    let kept = |module: &[u8]| names(&slim(module)).contains(&"__mcount_loc".to_owned());
    // By an absolute address, or by something that is no call.
    assert!(kept(&module(1)));
    let mut other = module(PLT32);
    let code = other.windows(CODE.len()).position(|w| w == CODE).unwrap();
    other[code] = 0xff;
    assert!(kept(&other));
    assert_eq!(sections(&slim(&other)).unwrap()[CODE_SECTION].content[0], 0xff);
}

#[test]
fn twice_is_once_and_odd_files_stay_as_they_are() {
    let once = slim(&module(PLT32));
    assert_eq!(slim(&once), once);
    for odd in [Vec::new(), b"\x7fELF".to_vec(), module(PLT32)[..200].to_vec()] {
        assert_eq!(slim(&odd), odd);
    }
}

proptest! {
    #[test]
    fn no_file_panics(edits in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..40)) {
        let mut file = module(PLT32);
        for (at, value) in edits {
            // Keep the magic, or every case ends there.
            let at = 20 + at % (file.len() - 20);
            file[at] = value;
        }
        let _ = slim(&file);
    }
}
