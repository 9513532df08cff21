//! What layers come to: whiteouts of every kind, links, names and numbers of every kind, and the file system, as e2fsprogs see it.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::path::Path;

use smolvm_oci::Digest;
use smolvm_oci::tree::{Content, NodeId, Tree};
use support::{Archive, Stack, debugfs, header, image, sparse};
use tar::EntryType;

/// Every path of a tree, directories with a slash.
fn paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), Tree::ROOT)];
    while let Some((path, id)) = waiting.pop() {
        if let Content::Directory(children) = &tree.node(id).content {
            for (name, child) in children {
                let path = format!("{path}{}", name.escape_ascii());
                let is_dir = matches!(tree.node(child.id).content, Content::Directory(_));
                found.push(if is_dir { format!("{path}/") } else { path.clone() });
                waiting.push((format!("{path}/"), child.id));
            }
        }
    }
    found.sort();
    found
}

fn comes_to(layers: Vec<Archive>, expected: &[&str]) {
    let plan = Stack::new(layers.into_iter().map(Archive::end).collect()).plan().unwrap();
    assert_eq!(paths(plan.tree()), expected);
}

fn base() -> Archive {
    Archive::new().dir("d").file("d/a", "a").file("d/b", "b").dir("d/e").file("d/e/f", "f").file("top", "t")
}

#[test]
fn whiteouts_hide_what_is_below() {
    comes_to(vec![base(), Archive::new().file("d/.wh.a", "").file(".wh.top", "")], &["d/", "d/b", "d/e/", "d/e/f"]);
    comes_to(vec![base(), Archive::new().file(".wh.d", "")], &["top"]);
    comes_to(vec![base(), Archive::new().file("d/.wh..wh..opq", "")], &["d/", "top"]);
    // Of what is not there: nothing happens.
    comes_to(vec![base(), Archive::new().file("d/.wh.zzz", "")], &["d/", "d/a", "d/b", "d/e/", "d/e/f", "top"]);
    comes_to(
        vec![base(), Archive::new().file(".wh..wh.plnk", "").file("d/.wh..wh.aufs", "")],
        &["d/", "d/a", "d/b", "d/e/", "d/e/f", "top"],
    );
}

/// In whatever order a layer says it.
#[test]
fn a_layers_own_entries_are_stronger_than_its_whiteouts() {
    for layer in [
        Archive::new().file("d/.wh..wh..opq", "").file("d/new", "n").file("d/e/g", "g"),
        Archive::new().file("d/new", "n").file("d/e/g", "g").file("d/.wh..wh..opq", ""),
        Archive::new().file("d/new", "n").file(".wh.d", "").file("d/e/g", "g"),
    ] {
        comes_to(vec![base(), layer], &["d/", "d/e/", "d/e/g", "d/new", "top"]);
    }
    comes_to(vec![base(), Archive::new().file("d/a", "new").file("d/.wh.a", "")], &["d/", "d/a", "d/b", "d/e/", "d/e/f", "top"]);
    // And what one layer hides, the next may have again.
    comes_to(vec![base(), Archive::new().file(".wh.d", ""), Archive::new().file("d/x", "")], &["d/", "d/x", "top"]);
}

/// As `umoci` and others have it: they unpack one after the other.
#[test]
fn of_two_members_of_one_name_in_a_layer_the_last_one_counts() {
    comes_to(vec![Archive::new().file("f", "one").file("f", "two").file("./f", "three")], &["f"]);
    comes_to(vec![Archive::new().file("d/f", "").file("d", "a file now")], &["d"]);
    comes_to(vec![Archive::new().symlink("d", "elsewhere").dir("d").file("d/f", "")], &["d/", "d/f"]);
    comes_to(vec![Archive::new().dir("d").symlink("d", "elsewhere").file("d/f", "")], &["d", "elsewhere/", "elsewhere/f"]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("image");
    let layer = Archive::new().file("f", "one").link("l", "f").file("f", "longer").link("f2", "f").link("f2", "f2").end();
    image(&Stack::new(vec![layer]), &at);
    // What was linked to the first one has its content still.
    let content = |path: &str| String::from_utf8(debugfs(&at, &format!("cat {path}"))).unwrap();
    assert_eq!(["f", "l", "f2"].map(content), ["longer", "one", "longer"]);
}

#[test]
fn kinds_replace_each_other() {
    comes_to(vec![base(), Archive::new().file("d", "now a file")], &["d", "top"]);
    comes_to(vec![base(), Archive::new().dir("top").file("top/x", "")], &["d/", "d/a", "d/b", "d/e/", "d/e/f", "top/", "top/x"]);
    // A directory said again keeps what is in it; links on the way are followed within the image.
    comes_to(
        vec![base(), Archive::new().dir("d").symlink("l", "/d/e").file("l/g", "")],
        &["d/", "d/a", "d/b", "d/e/", "d/e/f", "d/e/g", "l", "top"],
    );
    comes_to(
        vec![Archive::new().symlink("lib", "usr/lib").dir("usr/lib"), Archive::new().file("lib/x", "")],
        &["lib", "usr/", "usr/lib/", "usr/lib/x"],
    );
    comes_to(vec![Archive::new().symlink("lib", "usr/lib"), Archive::new().file("lib/x", "")], &["lib", "usr/", "usr/lib/", "usr/lib/x"]);
}

/// `ko` and others write them; the root is the image's own.
#[test]
fn absolute_names_begin_at_the_root_of_the_image() {
    comes_to(
        vec![base(), Archive::new().dir("/").file("/ko-app/x", "").link("/l", "/ko-app/x").file("//d/.wh.a", "").symlink("/s", "/etc")],
        &["d/", "d/b", "d/e/", "d/e/f", "ko-app/", "ko-app/x", "l", "s", "top"],
    );
}

/// Old programs write the size of the file that a link leads to, and no content.
#[test]
fn what_can_have_no_content_has_none_whatever_its_size_says() {
    for kind in [EntryType::Link, EntryType::Symlink, EntryType::Directory, EntryType::Fifo] {
        let archive = Archive::new().file("t", "hi").raw(&header(b"h", kind, b"t", 2)).file("z", "");
        comes_to(vec![archive], if kind == EntryType::Directory { &["h/", "t", "z"] } else { &["h", "t", "z"] });
    }
}

/// A way that was found once is looked for again when what it led through has gone.
#[test]
fn a_way_that_has_gone_is_not_followed() {
    let link = || Archive::new().symlink("l", "/");
    // The link is taken away by a member that lies behind itself.
    comes_to(vec![link(), Archive::new().file("l/a", "").file("l/.wh.l", "").file("l/z", "")], &["a", "l/", "l/z"]);
    comes_to(vec![link(), Archive::new().file("l/a", "").dir("l/l").file("l/z", "")], &["a", "l/", "l/z"]);
}

/// Its own name among them.
#[test]
fn a_link_may_replace_a_name_of_its_target() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    image(&Stack::new(vec![Archive::new().file("a", "content").end(), Archive::new().link("a", "a").end()]), &path);
    assert_eq!(debugfs(&path, "cat /a"), b"content");
    assert!(String::from_utf8_lossy(&debugfs(&path, "stat /a")).contains("Links: 1 "));
}

#[test]
fn times_before_1970_are_so_without_an_extended_header_too() {
    let mut old = header(b"old", EntryType::Regular, b"", 0);
    old.as_mut_bytes()[136..140].copy_from_slice(&[0xff; 4]);
    old.as_mut_bytes()[140..148].copy_from_slice(&(-1000_i64).to_be_bytes());
    old.set_cksum();
    let plan = Stack::new(vec![Archive::new().raw(&old).end()]).plan().unwrap();
    let id = plan.tree().child(Tree::ROOT, b"old").unwrap();
    assert_eq!(plan.tree().node(id).meta.mtime, smolvm_oci::layer::Time { seconds: -1000, nanoseconds: 0 });
}

/// The last byte that a file system with blocks of 4 KiB has a number for.
#[test]
fn the_longest_file_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let size = (1_u64 << 44) - 4096;
    let parts: [(u64, &[u8]); 3] = [(0, b"first"), ((1 << 43) + 7, b"middle"), (size - 4, b"last")];
    image(&Stack::new(vec![sparse("s", size, &parts).end()]), &path);
    let extents = String::from_utf8_lossy(&debugfs(&path, "stat /s")).into_owned();
    assert!(extents.contains(&format!("Size: {size}")), "{extents}");
    assert!(extents.contains("(0):") && extents.contains("(2147483648):") && extents.contains("(4294967294):"), "{extents}");
    let written = std::fs::read(&path).unwrap();
    assert!(parts.iter().all(|(_, bytes)| written.windows(bytes.len()).any(|window| window == *bytes)));
}

#[test]
fn links_hold_what_layers_above_hide() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let stack = Stack::new(vec![
        Archive::new().file("a", "content of a").link("b", "a").end(),
        Archive::new().file(".wh.a", "").link("c", "b").end(),
        Archive::new().file("b", "another").end(),
    ]);
    image(&stack, &path);
    assert_eq!(debugfs(&path, "cat /c"), b"content of a");
    assert_eq!(debugfs(&path, "cat /b"), b"another");
    assert!(String::from_utf8_lossy(&debugfs(&path, "stat /c")).contains("Links: 1 "));
}

#[test]
fn everything_a_file_can_be_is_in_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let long = "n".repeat(200);
    let target = "t".repeat(90);
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x06\0\x39\x30\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
    let stack = Stack::new(vec![
        Archive::new()
            .pax(&[("uid", b"70000"), ("gid", b"4000000000"), ("mtime", b"4102444800.5")])
            .file("owned", "x")
            .pax(&[("path", format!("deep/{long}/{long}").as_bytes())])
            .file("x", "long")
            .pax(&[("path", b"bytes-\xff\xfe")])
            .file("x", "bytes")
            .pax(&[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.system.posix_acl_access", acl)])
            .file("capable", "x")
            .pax(&[("SCHILY.xattr.user.long", &[b'v'; 3000])])
            .file("tagged", "x")
            .symlink("short", "owned")
            .symlink("long", &target)
            .member(b"fifo", EntryType::Fifo, b"", b"")
            .end(),
        device(b"null", EntryType::Char, 1, 3),
        device(b"far", EntryType::Block, 300, 70_000),
    ]);
    image(&stack, &path);
    let stat = |name: &str| String::from_utf8_lossy(&debugfs(&path, &format!("stat /{name}"))).into_owned();
    assert!(stat("owned").contains("User: 70000   Group: -294967296") || stat("owned").contains("Group: 4000000000"), "{}", stat("owned"));
    assert!(stat("owned").contains("2100"), "{}", stat("owned"));
    assert_eq!(debugfs(&path, &format!("cat /deep/{long}/{long}")), b"long");
    assert!(std::fs::read(&path).unwrap().windows(8).any(|bytes| bytes == b"bytes-\xff\xfe"));
    assert!(stat("capable").contains("security.capability (20)"), "{}", stat("capable"));
    assert!(stat("capable").contains("system.posix_acl_access"), "{}", stat("capable"));
    assert!(stat("tagged").contains("user.long (3000)"), "{}", stat("tagged"));
    assert!(stat("long").contains("Size: 90"));
    assert!(stat("fifo").contains("FIFO"));
    assert!(stat("null").contains("01:03"), "{}", stat("null"));
    assert!(stat("far").contains("300:70000") || stat("far").contains("12c:11170"), "{}", stat("far"));
}

/// A device alone: its numbers stand in fields of their own.
fn device(name: &[u8], kind: EntryType, major: u32, minor: u32) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_device_major(major).unwrap();
    header.set_device_minor(minor).unwrap();
    header.set_cksum();
    Archive::new().raw(&header).end()
}

#[test]
fn many_names_and_many_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut archive = Archive::new();
    for n in 0..40_000 {
        archive = archive.file(&format!("many/file-{n}-with-a-rather-long-name"), if n % 7 == 0 { "x" } else { "" });
    }
    for n in 0..300 {
        archive = archive.dir(&format!("dirs/{n}"));
    }
    // 500 stretches of content: an extent tree of two levels.
    let mut holes = vec![0; 500 << 17];
    for n in 0..500 {
        holes[n << 17..(n << 17) + 5].copy_from_slice(format!("{n:05}").as_bytes());
    }
    let archive = archive.member(b"holes", EntryType::Regular, b"", &holes);
    image(&Stack::new(vec![archive.end()]), &path);
    assert_eq!(debugfs(&path, "cat /holes"), holes);
    assert_eq!(debugfs(&path, "cat /many/file-7-with-a-rather-long-name"), b"x");
}

#[test]
fn packed_or_not_the_bytes_are_the_same() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let plain = base().file("more", &"content ".repeat(10_000)).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let digests: Vec<Digest> = [plain, gzip.finish().unwrap(), zstd]
        .into_iter()
        .map(|layer| {
            let path = dir.path().join("image");
            image(&Stack::new(vec![layer]), &path);
            Digest::of(&std::fs::read(&path).unwrap())
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
    // On any host, and from version to version unless an ADR says otherwise.
    assert_eq!(digests[0].as_str(), "sha256:66562ea9ccb984103f03eb252d7fd9c670effdbf8ea375e36f05ee11c76a3051");
}

#[test]
fn an_image_without_layers_is_an_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let plan = image(&Stack::new(vec![]), &path);
    assert_eq!(plan.tree().walk(), [NodeId::clone(&Tree::ROOT)]);
    assert!(Path::new(&path).metadata().unwrap().len() < 100_000);
}
