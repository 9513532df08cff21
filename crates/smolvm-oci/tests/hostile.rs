//! Layers that want out, or want everything: each is refused, with the name of the entry that wanted it.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed preparation is a failed test")]

mod support;

use support::{Archive, Stack, told};
use tar::{EntryType, Header};

/// Longest input of the fuzz target that reads layers.
const LONGEST: usize = 8 << 10;

/// What is refused here is what the fuzz target `image_layers` begins with; `SMOLVM_BLESS=1` writes it there.
fn keep(layers: &[Vec<u8>]) {
    let (first, second) = (layers.first().map_or(&[][..], Vec::as_slice), layers.get(1).map_or(&[][..], Vec::as_slice));
    // The target cuts in 255ths: the second layer begins where one of them does.
    let whole = (1..=255).find_map(|part: u8| {
        let total = (first.len() * 255).div_ceil(usize::from(part));
        let fits = total * usize::from(part) / 255 == first.len() && total >= first.len() + second.len() && total < LONGEST;
        let mut bytes = [&[part][..], first, second].concat();
        bytes.resize(1 + total, 0);
        fits.then_some(bytes)
    });
    let Some(bytes) = whole else { return };
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/image_layers/past");
    let path = format!("{corpus}/hostile-{}", &smolvm_oci::Digest::of(&bytes).hex()[..16]);
    if std::env::var_os("SMOLVM_BLESS").is_some() {
        std::fs::create_dir_all(corpus).unwrap();
        std::fs::write(path, bytes).unwrap();
    } else {
        assert!(std::path::Path::new(&path).exists(), "{path} is missing: SMOLVM_BLESS=1 cargo test -p smolvm-oci --test hostile");
    }
}

/// The layers are refused, and the refusal says all of these words.
fn refused(layers: Vec<Vec<u8>>, words: &[&str]) {
    keep(&layers);
    let error = Stack::new(layers).plan().expect_err(&format!("{words:?} must be refused"));
    let text = told(&error);
    assert!(words.iter().all(|word| text.contains(word)), "{text:?} says all of {words:?}");
}

fn one(archive: Archive, words: &[&str]) {
    refused(vec![archive.end()], words);
}

#[test]
fn ways_out_are_refused() {
    one(Archive::new().file("../x", "x"), &["layer 1", "\"../x\"", "no path within"]);
    one(Archive::new().file("/../x", "x"), &["\"/../x\"", "no path within"]);
    one(Archive::new().file("a/../../x", "x"), &["\"a/../../x\"", "no path within"]);
    one(Archive::new().dir("a/.."), &["\"a/..\""]);
    one(Archive::new().pax(&[("path", b"/tmp/../../x")]).file("fine", "x"), &["\"/tmp/../../x\""]);
    one(Archive::new().pax(&[("path", b"a\0b")]).file("fine", "x"), &["\"a\\x00b\""]);
    one(Archive::new().symlink("out", "../..").file("out/x", "x"), &["\"out/x\"", "leads out"]);
    one(Archive::new().symlink("d/out", "../../etc").file("d/out/x", "x"), &["\"d/out/x\"", "leads out"]);
    one(Archive::new().symlink("a", "b").symlink("b", "a").file("a/x", "x"), &["\"a/x\"", "leads out"]);
    one(Archive::new().symlink("a", "missing/../..").file("a/x", "x"), &["\"a/x\"", "leads out"]);
    one(Archive::new().file("f", "x").file("f/x", "x"), &["\"f/x\"", "no directory"]);
    // Across layers as well.
    refused(vec![Archive::new().symlink("out", "../..").end(), Archive::new().file("out/x", "x").end()], &["layer 2", "\"out/x\""]);
}

#[test]
fn links_to_outside_are_refused() {
    for target in ["/etc/shadow", "../../etc/shadow", "missing", ".", "d"] {
        one(Archive::new().dir("d").link("l", target), &["\"l\"", "no file that was there before"]);
    }
    one(Archive::new().symlink("out", "../..").link("l", "out/etc/shadow"), &["\"l\""]);
    one(Archive::new().member(b"s", EntryType::Symlink, b"", b""), &["\"s\"", "empty"]);
}

#[test]
fn the_root_is_a_directory() {
    one(Archive::new().symlink("./.", "b"), &["\"./.\"", "root of the image"]);
    // Directories are said again by honest tools.
    Stack::new(vec![Archive::new().dir("d").dir("d/").file("d/f", "a").dir("./d").end()]).plan().unwrap();
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        one(Archive::new().file(name, ""), &[name, "whiteout of nothing"]);
    }
}

#[test]
fn sizes_that_lie_are_refused() {
    let cut = |archive: Archive, keep: usize| archive.unfinished()[..keep].to_vec();
    refused(vec![cut(Archive::new().file("short", &"x".repeat(2000)), 1024)], &["ends within", "\"short\""]);
    refused(vec![cut(Archive::new().file("a", "x"), 700)], &["ends within", "\"a\""]);
    refused(vec![cut(Archive::new().file("a", "x").dir("b"), 1100)], &["ends within", "\"a\""]);
    // More than there is, in the header and in an extended one.
    let mut header = Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1 << 62);
    header.set_cksum();
    refused(vec![Archive::new().raw(&header).content(b"x").end()], &["\"huge\""]);
    one(Archive::new().pax(&[("size", b"18446744073709551615")]).file("huge", "x"), &["\"huge\""]);
    one(Archive::new().pax(&[("size", b"-1")]).file("f", "x"), &["no valid size"]);
    // A header that would fill the memory.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::XHeader);
    header.set_size(1 << 40);
    header.set_cksum();
    refused(vec![Archive::new().raw(&header).end()], &["header of 1099511627776 bytes"]);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    refused(vec![Archive::new().raw(&header).end()], &["header of 1099511627776 bytes"]);
}

/// What a member may have before it: one limit for all of it, not one for each.
#[test]
fn extended_headers_of_one_member_have_one_limit() {
    let comment = vec![b'x'; 400 << 10];
    let one_more = |archive: Archive| archive.pax(&[("comment", &comment)]);
    let two = one_more(one_more(Archive::new().file("before", "")));
    Stack::new(vec![one_more(two.clone().file("f", "")).file("g", "").end()]).plan().unwrap();
    one(one_more(two).file("f", ""), &["\"before\"", "a header of 1228"]);
}

#[test]
fn attributes_that_no_block_holds_are_refused_by_the_name_of_their_file() {
    let value = [b'v'; 376];
    let name = |n: usize| format!("SCHILY.xattr.user.{n:03}");
    let names: Vec<String> = (0..11).map(name).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &value[..])).collect();
    let with = |records: &[(&str, &[u8])]| Archive::new().file("before", "").pax(records).file("f", "");
    Stack::new(vec![with(&records[..10]).end()]).plan().unwrap();
    one(with(&records), &["\"f\" has", "user.010"]);
    one(with(&records[..10]).pax(&records[10..]).pax(&records[..10]).file("g", ""), &["\"g\" has", "user.009"]);
    one(with(&[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0odd")]), &["\"f\" has", "posix_acl_access"]);
}

#[test]
fn files_longer_than_a_file_system_takes_are_refused() {
    for size in [(1_u64 << 44) - 4095, 1 << 45, 1 << 62, u64::MAX] {
        let sparse = support::sparse("s", size, &[(size - 5, b"AAAAA")]);
        one(sparse, &["\"s\"", &format!("file of {size} bytes")]);
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    refused(vec![vec![7; 4096]], &["no header"]);
    let mut broken = Archive::new().file("a", "x").end();
    broken[3] ^= 1;
    refused(vec![broken], &["no header"]);
    one(Archive::new().member(b"odd", EntryType::new(b'Q'), b"", b""), &["\"odd\"", "'Q'"]);
    one(Archive::new().pax(&[("SCHILY.xattr.user.x", &[b'x'; 5000])]).file("f", ""), &["user.x"]);
    one(Archive::new().pax(&[("GNU.sparse.map", b"0,1")]).file("f", ""), &["sparse map"]);
    let mut packed = flate(&Archive::new().file("a", &"x".repeat(100_000)).end());
    packed.truncate(packed.len() / 2);
    refused(vec![packed], &["\"a\""]);
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let map = |map: &str, size: &[u8]| {
        let mut content = map.as_bytes().to_vec();
        content.resize(512, 0);
        content.extend_from_slice(b"data");
        Archive::new()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"s"), ("GNU.sparse.realsize", size)])
            .member(b"x", EntryType::Regular, b"", &content)
    };
    Stack::new(vec![map("1\n100\n4\n", b"1000").end()]).plan().unwrap();
    for (text, size) in [
        ("1\n100\n5\n", &b"1000"[..]),
        ("1\n100\n4\n", b"103"),
        ("2\n100\n2\n99\n2\n", b"1000"),
        ("70000\n", b"1000"),
        ("1\n18446744073709551615\n4\n", b"1000"),
        ("x\n", b"1000"),
    ] {
        one(map(text, size), &["\"s\"", "sparse map"]);
    }
}

#[test]
fn more_than_is_taken_is_refused_before_anything_is_written() {
    use smolvm_oci::rootfs::{Limits, Plan};
    // A bomb: 64 MiB of zeros in 64 KiB.
    let bomb = Stack::new(vec![flate(&Archive::new().member(b"bomb", EntryType::Regular, b"", &vec![0; 64 << 20]).end())]);
    let limits = Limits { unpacked: 32 << 20, ..Limits::default() };
    let text = told(&Plan::of(&bomb, limits, &mut |_| {}).unwrap_err());
    assert!(text.contains("\"bomb\"") && text.contains("more than is taken"), "{text}");
    // Behind the end of the archive, too.
    let mut tail = Archive::new().file("last", "x").end();
    tail.resize(64 << 20, 0);
    let text = told(&Plan::of(&Stack::new(vec![flate(&tail)]), limits, &mut |_| {}).unwrap_err());
    assert!(text.contains("\"last\""), "{text}");
    // Where it is taken, zeros take no room.
    assert!(bomb.plan().unwrap().image_bytes() < 1 << 20);
}

#[test]
fn a_layer_that_is_another_one_is_refused() {
    let mut stack = Stack::new(vec![Archive::new().file("a", "x").end()]);
    stack.layers[0] = Archive::new().file("a", "y").end();
    let text = told(&stack.plan().unwrap_err());
    assert!(text.contains("layer 1 unpacks to sha256:"), "{text}");
}

fn flate(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}
