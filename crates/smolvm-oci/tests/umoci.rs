//! The same image unpacked by `umoci` and read by the kernel out of our file: the trees are the same, file by file.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed preparation is a failed test")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use smolvm_oci::Digest;
use support::registry::write_layout;
use support::{Archive, Stack, header, image};
use tar::EntryType;

/// What counts of one file.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    time: (i64, i64),
    links: u64,
    device: u64,
    content: String,
}

/// Everything beneath a directory; the directory itself is `umoci`'s own.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, Facts> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let seen = path.symlink_metadata().unwrap();
            let kind = seen.file_type();
            let content = if kind.is_symlink() {
                path.read_link().unwrap().as_os_str().as_bytes().escape_ascii().to_string()
            } else if kind.is_file() {
                Digest::of(&std::fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            let facts = Facts {
                mode: seen.mode(),
                owner: (seen.uid(), seen.gid()),
                time: (seen.mtime(), seen.mtime_nsec()),
                links: if kind.is_dir() { 0 } else { seen.nlink() },
                device: if kind.is_char_device() || kind.is_block_device() { seen.rdev() } else { 0 },
                content,
            };
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), facts);
            if kind.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

/// All extended attributes, as `getfattr` prints them; selinux's belong to the host.
fn attributes(root: &Path) -> Vec<String> {
    let read = Command::new("getfattr").args(["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."]).current_dir(root).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    // One block per file, in the order of the directory.
    let mut blocks: Vec<String> = text.split("\n\n").map(str::trim).filter(|block| block.lines().count() > 1).map(str::to_owned).collect();
    blocks.sort();
    blocks
}

fn ok(command: &mut Command) {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Unmounts, whatever happens to the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Other tests look at the mounts of this host, and take what is mounted for a leak.
fn same_as_umoci(layers: Vec<Vec<u8>>) -> usize {
    testkit::prerequisite::root();
    testkit::prerequisite::programs(&["umoci", "getfattr", "mount", "umount"]);
    testkit::with_private_mounts(|| compared(layers))
}

fn compared(layers: Vec<Vec<u8>>) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_layout(&at("layout"), &layers, "{}");
    ok(Command::new("umoci").args(["raw", "unpack", "--image"]).arg(format!("{}:x", at("layout").display())).arg(at("umoci")));
    let stack = Stack::new(layers);
    image(&stack, &at("image"));
    std::fs::create_dir(at("ours")).unwrap();
    ok(Command::new("mount").args(["-o", "ro,loop"]).arg(at("image")).arg(at("ours")));
    let mounted = at("ours");
    let _unmount = Mounted(&mounted);
    let (ours, theirs) = (tree(&mounted), tree(&at("umoci")));
    for (path, facts) in &theirs {
        assert_eq!(ours.get(path), Some(facts), "{}", path.escape_ascii());
    }
    let more: Vec<String> = ours.keys().filter(|path| !theirs.contains_key(*path)).map(|path| path.escape_ascii().to_string()).collect();
    assert_eq!(more, Vec::<String>::new());
    assert_eq!(attributes(&mounted), attributes(&at("umoci")));
    ours.len()
}

#[test]
fn whiteouts_links_and_attributes_come_to_the_same() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let long = "n".repeat(180);
    let below = Archive::new()
        .dir("etc/")
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .dir("var/")
        .dir("var/cache/")
        .file("var/cache/a", "a")
        .file("var/cache/b", "b")
        .dir("usr/")
        .dir("usr/lib/")
        .symlink("lib", "usr/lib")
        .file("usr/lib/one", "1")
        .link("usr/lib/two", "usr/lib/one")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("uid", b"70001"), ("gid", b"70002")])
        .file("usr/lib/capable", "c")
        .pax(&[("SCHILY.xattr.user.note", &[b'v'; 700]), ("mtime", b"1234567890.123456789")])
        .file("usr/lib/noted", "n")
        .pax(&[("path", format!("usr/{long}/{long}").as_bytes())])
        .file("x", "long")
        .pax(&[("path", b"usr/bytes-\xff\xfe")])
        .file("x", "bytes")
        .member(b"usr/fifo", EntryType::Fifo, b"", b"")
        .file("usr/said-twice", "first, and longer")
        .link("usr/said-before", "usr/said-twice")
        .file("usr/said-twice", "second")
        .file("usr/kind/of", "x")
        .symlink("usr/kind", "lib")
        .file("/usr/absolute", "from the root")
        .link("/usr/absolute-link", "/usr/absolute")
        .raw(&header(b"usr/sized", EntryType::Link, b"usr/absolute", 13))
        .pax(&[("SCHILY.xattr.com.apple.provenance", b"x"), ("SCHILY.xattr.user.kept", b"x")])
        .file("usr/from-a-mac", "m")
        .dir("replaced/")
        .file("replaced/by", "x")
        .pax(&[("path", format!("usr/{long}/").as_bytes())])
        .member(b"x", EntryType::Directory, b"", b"");
    let middle = Archive::new()
        .dir("etc/")
        .file("etc/.wh.gone", "")
        .dir("var/")
        .dir("var/cache/")
        .file("var/cache/.wh..wh..opq", "")
        .file("var/cache/c", "c")
        .file("lib/through-the-link", "t")
        .dir("usr/")
        .dir("usr/lib/")
        .file("replaced", "a file now");
    let above = Archive::new()
        .file(".wh.replaced", "")
        .dir("usr/")
        .dir("usr/lib/")
        .file("usr/lib/.wh.one", "")
        .dir("etc/")
        .symlink("etc/keep", "elsewhere");
    assert!(same_as_umoci(vec![below.end(), middle.end(), above.end()]) > 15);
}

/// What is hostile and taken: it wants out and stays within, or says one thing and then another.
#[test]
fn what_wants_out_and_stays_within_comes_to_the_same() {
    let below = Archive::new()
        .dir("etc/")
        .file("etc/passwd", "the image's own")
        .dir("a/")
        .dir("a/b/")
        .dir("a/b/c/")
        .symlink("absolute", "/etc")
        .symlink("shadow", "/etc/shadow")
        .symlink("up", "a/b/../b/c")
        .symlink("a/b/c/out", "../../../etc")
        .symlink("chain-one", "chain-two")
        .symlink("chain-two", "chain-three")
        .symlink("chain-three", "/a/b")
        .symlink("dangling", "../../../../../../etc/passwd")
        .file("absolute/through", "in the image's etc")
        .file("up/deep", "in c")
        .file("a/b/c/out/upwards", "in etc as well")
        .file("chain-one/end", "in b")
        .link("hard", "absolute/passwd")
        .link("hard-to-link", "shadow")
        .file(".//./a//b/./odd-name", "o")
        .file("a/b/ ", "blank")
        .file("a/b/\n", "line")
        .file("a/b/...", "dots")
        .file("a/b/.wh", "no whiteout")
        .file("swap", "a file")
        .dir("swap-dir/")
        .file("swap-dir/x", "x")
        .raw(&{
            let mut suid = header(b"suid", EntryType::Regular, b"", 0);
            suid.set_mode(0o6777);
            suid.set_cksum();
            suid
        })
        .raw(&{
            let mut disk = header(b"sda", EntryType::Block, b"", 0);
            disk.set_device_major(8).unwrap();
            disk.set_device_minor(0).unwrap();
            disk.set_cksum();
            disk
        });
    let above = Archive::new()
        .dir("swap/")
        .file("swap/x", "in what was a file")
        .symlink("swap-dir", "/etc")
        .file("etc/.wh.upwards", "")
        .symlink("hard", "/etc/passwd")
        .file("chain-one/again", "through three links of the layer below");
    assert!(same_as_umoci(vec![below.end(), above.end()]) > 25);
}

#[test]
fn a_debian_of_mmdebstrap_comes_to_the_same() {
    testkit::prerequisite::root();
    testkit::prerequisite::programs(&["mmdebstrap"]);
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("debian.tar");
    let suite = os_release("VERSION_CODENAME");
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--mode=root", "--variant=minbase", "--format=tar", &suite]).arg(&tar);
    testkit::with_private_mounts(|| ok(&mut make));
    assert!(same_as_umoci(vec![std::fs::read(&tar).unwrap()]) > 5000);
}

/// What this host says of itself.
fn os_release(key: &str) -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap().trim_matches('"').to_owned()
}

#[test]
fn files_of_this_host_come_to_the_same() {
    // The host's own files: thousands of them, with what a distribution has of links, owners and rights.
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("layer.tar");
    let mut pack = Command::new("tar");
    pack.args([
        "--format=pax",
        "--pax-option=delete=atime,delete=ctime",
        "--xattrs",
        "--xattrs-include=*",
        "--sort=name",
        "--hard-dereference",
    ]);
    pack.arg("-C").arg("/").arg("-cf").arg(&tar);
    // What no layer mentions gets the moment of unpacking there and 1970 here.
    pack.args(["--no-recursion", "etc", "usr", "usr/lib", "usr/lib/x86_64-linux-gnu", "usr/share"]);
    ok(pack.args(["--recursion", "etc/alternatives", "etc/pam.d", "usr/sbin", "usr/share/perl5", "usr/lib/x86_64-linux-gnu/perl-base"]));
    assert!(same_as_umoci(vec![std::fs::read(&tar).unwrap()]) > 500);
}
