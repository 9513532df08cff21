//! Layers made by hand: what no tar program would write, too.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed preparation is a failed test")]

pub mod many;
pub mod registry;

use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use smolvm_oci::Digest;
use smolvm_oci::digest::Hashing;
use smolvm_oci::layer::decompress;
use smolvm_oci::rootfs::{Layers, Limits, Plan, RootfsError};
use tar::{EntryType, Header};

/// Members one after the other.
#[derive(Default, Clone)]
pub struct Archive(Vec<u8>);

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn member(mut self, name: &[u8], kind: EntryType, link: &[u8], content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.content(content)
    }

    pub fn raw(mut self, header: &Header) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.member(name.as_bytes(), EntryType::Regular, b"", content.as_bytes())
    }

    pub fn dir(self, name: &str) -> Self {
        self.member(name.as_bytes(), EntryType::Directory, b"", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(name.as_bytes(), EntryType::Symlink, target.as_bytes(), b"")
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.member(name.as_bytes(), EntryType::Link, target.as_bytes(), b"")
    }

    /// Extended records for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..rest + 20).find(|n: &usize| n.to_string().len() + rest == *n).unwrap();
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.member(b"pax", EntryType::XHeader, b"", &bytes)
    }

    /// With the two blocks at the end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }
}

/// A sparse file in the newest of GNU's formats, with these stretches of content.
pub fn sparse(name: &str, size: u64, parts: &[(u64, &[u8])]) -> Archive {
    let map = parts.iter().map(|(offset, bytes)| format!("{offset}\n{}\n", bytes.len()));
    let mut content = std::iter::once(format!("{}\n", parts.len())).chain(map).collect::<String>().into_bytes();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend(parts.iter().flat_map(|(_, bytes)| bytes.iter()));
    let size = size.to_string();
    Archive::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .member(b"x", EntryType::Regular, b"", &content)
}

/// A header alone, which says more of a member than [`Archive::member`] does.
pub fn header(name: &[u8], kind: EntryType, link: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Layers in memory.
pub struct Stack {
    pub layers: Vec<Vec<u8>>,
    ids: Vec<Digest>,
}

impl Stack {
    pub fn new(layers: Vec<Vec<u8>>) -> Self {
        let ids = layers.iter().map(|layer| diff_id(layer)).collect();
        Self { layers, ids }
    }

    pub fn plan(&self) -> Result<Plan, RootfsError> {
        Plan::of(self, Limits::default(), &mut |_| {})
    }
}

impl Layers for Stack {
    fn diff_ids(&self) -> &[Digest] {
        &self.ids
    }

    fn open(&self, layer: usize) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(&self.layers[layer][..]))
    }
}

fn diff_id(layer: &[u8]) -> Digest {
    let mut unpacked = Hashing::new(decompress(layer).unwrap());
    // A layer that is broken on purpose has no digest that matters.
    let _ = io::copy(&mut unpacked, &mut io::sink());
    unpacked.finish().0
}

/// Plans and writes an image, and has `e2fsck` look at it.
pub fn image(stack: &Stack, path: &Path) -> Plan {
    let plan = stack.plan().unwrap();
    plan.write(stack, &Digest::of(b"image"), &std::fs::File::create(path).unwrap(), &mut |_| {}).unwrap();
    testkit::prerequisite::programs(&["e2fsck", "debugfs"]);
    let checked = Command::new("e2fsck").args(["-fn"]).arg(path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    plan
}

/// What `debugfs` says to one request.
pub fn debugfs(path: &Path, request: &str) -> Vec<u8> {
    Command::new("debugfs").args(["-R", request]).arg(path).output().unwrap().stdout
}

/// The error and what is beneath it, in one line.
pub fn told(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", told(source)),
        None => error.to_string(),
    }
}
