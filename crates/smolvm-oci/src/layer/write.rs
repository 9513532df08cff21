//! Writes members as a tar stream: the same members give the same bytes.
//!
//! A header has what fits into it; names that are too long, numbers that are too large, fractions of seconds and attributes stand in an
//! extended header before it, in a fixed order.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::member::{Kind, Member, Time};

const BLOCK: usize = 512;
/// Longest name, and longest target of a link, in a header.
const SHORT: usize = 100;
/// Largest owner and group in a header: seven octal digits.
const SMALL_ID: u32 = 0o7_777_777;
/// Largest size and time in a header: eleven octal digits.
const SMALL_NUMBER: u64 = 0o77_777_777_777;
/// What an extended header is called; nobody looks.
const PAX_NAME: &[u8] = b"pax";

/// Members one after the other.
#[derive(Debug)]
pub struct LayerWriter<W> {
    out: W,
}

impl<W: Write> LayerWriter<W> {
    /// Into a stream.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// What is written to.
    pub fn stream(&self) -> &W {
        &self.out
    }

    /// Writes a member; a file's content, all of it, comes from `content`. One that ends early is an error.
    pub fn member(&mut self, member: &Member, content: impl Read) -> io::Result<()> {
        let records = records(member);
        if !records.is_empty() {
            let size = records.len() as u64;
            let mut header = blank(PAX_NAME, EntryType::XHeader);
            header.set_size(size);
            self.header(&mut header)?;
            self.out.write_all(&records)?;
            self.pad(size)?;
        }
        let mut header = blank(&member.path, entry_type(&member.kind));
        header.set_mode(u32::from(member.meta.mode));
        header.set_uid(u64::from(member.meta.uid.min(SMALL_ID)));
        header.set_gid(u64::from(member.meta.gid.min(SMALL_ID)));
        header.set_mtime(u64::try_from(member.meta.mtime.seconds).unwrap_or_default().min(SMALL_NUMBER));
        match &member.kind {
            Kind::File { size, .. } => header.set_size((*size).min(SMALL_NUMBER)),
            Kind::Link { target } | Kind::Symlink { target } => put(&mut header.as_old_mut().linkname, target),
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
            }
            Kind::Directory | Kind::Fifo => {}
        }
        self.header(&mut header)?;
        let Kind::File { size, .. } = member.kind else { return Ok(()) };
        if io::copy(&mut content.take(size), &mut self.out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(size)
    }

    /// Writes the end; gives back the stream.
    pub fn end(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let block = BLOCK as u64;
        let rest = usize::try_from((block - size % block) % block).unwrap_or_default();
        self.out.write_all(&[0; BLOCK][..rest])
    }
}

fn blank(name: &[u8], kind: EntryType) -> Header {
    let mut header = Header::new_ustar();
    put(&mut header.as_old_mut().name, name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// As much as fits: what is longer stands in the extended header, which is the stronger.
fn put(field: &mut [u8], bytes: &[u8]) {
    let fits = bytes.len().min(field.len());
    field[..fits].copy_from_slice(&bytes[..fits]);
}

fn entry_type(kind: &Kind) -> EntryType {
    match kind {
        Kind::File { .. } => EntryType::Regular,
        Kind::Link { .. } => EntryType::Link,
        Kind::Symlink { .. } => EntryType::Symlink,
        Kind::Directory => EntryType::Directory,
        Kind::Char { .. } => EntryType::Char,
        Kind::Block { .. } => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    }
}

/// What does not fit into a header.
fn records(member: &Member) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: &[u8]| record(&mut records, key, value);
    if member.path.len() > SHORT {
        add("path", &member.path);
    }
    match &member.kind {
        Kind::Link { target } | Kind::Symlink { target } if target.len() > SHORT => add("linkpath", target),
        Kind::File { size, .. } if *size > SMALL_NUMBER => add("size", size.to_string().as_bytes()),
        _ => {}
    }
    for (key, id) in [("uid", member.meta.uid), ("gid", member.meta.gid)] {
        if id > SMALL_ID {
            add(key, id.to_string().as_bytes());
        }
    }
    let time = member.meta.mtime;
    if time.nanoseconds != 0 || u64::try_from(time.seconds).map_or(true, |seconds| seconds > SMALL_NUMBER) {
        add("mtime", written(time).as_bytes());
    }
    for (name, value) in &member.meta.xattrs {
        add(&format!("SCHILY.xattr.{name}"), value);
    }
    records
}

/// A record begins with its own length, digits of the length included.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Seconds with a fraction; before 1970 the fraction counts downwards as the sign does.
fn written(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds, time.nanoseconds) {
        (seconds @ 0.., nanoseconds) => ("", seconds.unsigned_abs(), nanoseconds),
        (seconds, 0) => ("-", seconds.unsigned_abs(), 0),
        (seconds, nanoseconds) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    if nanoseconds == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{nanoseconds:09}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{Layer, Meta};
    use super::*;

    fn there_and_back(member: &Member, content: &[u8]) -> (Member, Vec<u8>) {
        let mut writer = LayerWriter::new(Vec::new());
        writer.member(member, content).unwrap();
        let bytes = writer.end().unwrap();
        let mut layer = Layer::new(&bytes[..]);
        let read = layer.next_member().unwrap().unwrap();
        let mut got = vec![0; content.len()];
        layer.read_exact(&mut got).unwrap();
        assert_eq!(layer.next_member().unwrap(), None);
        (read, got)
    }

    #[test]
    fn a_content_that_ends_early_is_an_error() {
        let member = Member { path: b"a".to_vec(), meta: Meta::default(), kind: Kind::File { size: 4, parts: None } };
        assert!(LayerWriter::new(Vec::new()).member(&member, &b"abc"[..]).is_err());
    }

    fn times() -> impl Strategy<Value = Time> {
        (-2_000_000_000_000_i64..2_000_000_000_000, 0_u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Time { seconds, nanoseconds })
    }

    fn names(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1_u8.., 1..longest).prop_filter("a slash at the end makes a directory", |name| !name.ends_with(b"/"))
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            (0_u64..2000).prop_map(|size| Kind::File { size, parts: None }),
            names(300).prop_map(|target| Kind::Link { target }),
            names(300).prop_map(|target| Kind::Symlink { target }),
            Just(Kind::Directory),
            (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Kind::Char { major, minor }),
            (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Kind::Block { major, minor }),
            Just(Kind::Fifo),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(
            path in names(300), kind in kinds(), mode in 0_u16..0o10000, uid: u32, gid: u32, mtime in times(),
            xattrs in proptest::collection::btree_map("user\\.[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..100), 0..3),
        ) {
            let member = Member { path, meta: Meta { mode, uid, gid, mtime, xattrs: BTreeMap::from_iter(xattrs) }, kind };
            let content: Vec<u8> = match member.kind { Kind::File { size, .. } => (0..size).map(|n| (n % 251) as u8).collect(), _ => Vec::new() };
            let (read, got) = there_and_back(&member, &content);
            prop_assert_eq!(read, member);
            prop_assert_eq!(got, content);
        }
    }
}
