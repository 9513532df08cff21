//! Writes members as a tar stream: the same members give the same bytes.
//!
//! A header has what fits into it; names that are too long, numbers that are too large, fractions of seconds and attributes stand in an
//! extended header before it, in a fixed order. A file with holes has GNU's map of them, version 1.0, before its content.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::member::{Kind, Member, Time};
use super::{pax, sparse};

const BLOCK: usize = 512;
/// Longest name, and longest target of a link, in a header.
const SHORT: usize = 100;
/// Largest owner and group in a header: seven octal digits.
const SMALL_ID: u32 = 0o7_777_777;
/// Largest size and time in a header: eleven octal digits.
const SMALL_NUMBER: u64 = 0o77_777_777_777;
/// What an extended header is called; nobody looks.
const PAX_NAME: &[u8] = b"pax";
const CHUNK: usize = 256 << 10;

/// Why a member is not in a layer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Its content cannot be read.
    #[error("its content cannot be read")]
    Read(#[source] io::Error),
    /// There is less content than it should have.
    #[error("its content ends early")]
    Short,
    /// It has an attribute that would be read as another one, for a record's key ends with the first of these signs.
    #[error("the name of its extended attribute {name:?} has a \"=\"")]
    Xattr {
        /// The attribute.
        name: String,
    },
    /// The stream does not take it.
    #[error("the layer cannot be written")]
    Write(#[source] io::Error),
}

/// Members one after the other.
#[derive(Debug)]
pub struct LayerWriter<W> {
    out: W,
    chunk: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Into a stream.
    pub fn new(out: W) -> Self {
        Self { out, chunk: vec![0; CHUNK] }
    }

    /// What is written to.
    pub fn stream(&self) -> &W {
        &self.out
    }

    /// Writes a member. A file's content comes from `content`: what is stored of it, without holes, and nothing that ends early.
    pub fn member(&mut self, member: &Member, content: impl Read) -> Result<(), WriteError> {
        if let Some(name) = member.meta.xattrs.iter().map(|(name, _)| name).find(|name| name.contains('=')) {
            return Err(WriteError::Xattr { name: name.clone() });
        }
        let stored = Stored::of(&member.kind);
        self.headers(member, &stored).map_err(WriteError::Write)?;
        self.content(content, stored.content)?;
        self.pad(stored.size()).map_err(WriteError::Write)
    }

    fn headers(&mut self, member: &Member, stored: &Stored) -> io::Result<()> {
        let records = records(member, stored);
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
            Kind::File { .. } => header.set_size(stored.size().min(SMALL_NUMBER)),
            Kind::Link { target } | Kind::Symlink { target } => put(&mut header.as_old_mut().linkname, target),
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
            }
            Kind::Directory | Kind::Fifo => {}
        }
        self.header(&mut header)?;
        self.out.write_all(&stored.map)
    }

    fn content(&mut self, mut content: impl Read, mut left: u64) -> Result<(), WriteError> {
        while left > 0 {
            let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let n = match content.read(&mut self.chunk[..want]) {
                Ok(0) => return Err(WriteError::Short),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(WriteError::Read(e)),
            };
            self.out.write_all(&self.chunk[..n]).map_err(WriteError::Write)?;
            left -= n as u64;
        }
        Ok(())
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

/// What of a member follows its header.
struct Stored {
    map: Vec<u8>,
    content: u64,
}

impl Stored {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::File { size, parts: Some(parts) } => {
                Self { map: sparse::written(parts, *size), content: parts.iter().map(|part| part.length).sum() }
            }
            Kind::File { size, parts: None } => Self { map: Vec::new(), content: *size },
            Kind::Link { .. } | Kind::Symlink { .. } | Kind::Directory | Kind::Char { .. } | Kind::Block { .. } | Kind::Fifo => {
                Self { map: Vec::new(), content: 0 }
            }
        }
    }

    fn size(&self) -> u64 {
        self.map.len() as u64 + self.content
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
fn records(member: &Member, stored: &Stored) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &str, value: &[u8]| record(&mut records, key, value);
    if let Kind::File { size, parts: Some(_) } = &member.kind {
        add("GNU.sparse.major", b"1");
        add("GNU.sparse.minor", b"0");
        add("GNU.sparse.name", &member.path);
        add("GNU.sparse.realsize", size.to_string().as_bytes());
    } else if member.path.len() > SHORT {
        add("path", &member.path);
    }
    match &member.kind {
        Kind::Link { target } | Kind::Symlink { target } if target.len() > SHORT => add("linkpath", target),
        Kind::File { .. } if stored.size() > SMALL_NUMBER => add("size", stored.size().to_string().as_bytes()),
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
    for (name, value) in member.meta.xattrs.iter() {
        add(&format!("{}{name}", pax::XATTR), value);
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

    use super::super::{Layer, Meta, Part};
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

    /// Stretches with holes before them, and one at the end.
    fn parts() -> impl Strategy<Value = (Vec<Part>, u64)> {
        let numbers = proptest::collection::vec((1_u64..1 << 36, 1_u64..2000), 0..60);
        (numbers, 0_u64..1 << 36).prop_map(|(numbers, rest)| {
            let mut end = 0;
            let mut part = |(hole, length)| {
                let offset = end + hole;
                end = offset + length;
                Part { offset, length }
            };
            (numbers.into_iter().map(&mut part).collect(), end + rest)
        })
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            (0_u64..2000).prop_map(|size| Kind::File { size, parts: None }),
            parts().prop_map(|(parts, size)| Kind::File { size, parts: Some(parts) }),
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
        fn a_name_that_would_be_read_as_another_is_refused(before in "[a-z]{0,9}", after in "[a-z=]{0,9}") {
            let name = format!("user.{before}={after}");
            let meta = Meta { xattrs: BTreeMap::from([(name.clone(), b"x".to_vec())]).into(), ..Meta::default() };
            let mut writer = LayerWriter::new(Vec::new());
            let refused = writer.member(&Member { path: b"a".to_vec(), meta, kind: Kind::Fifo }, io::empty()).unwrap_err();
            prop_assert!(refused.to_string().contains(&name), "{}", refused);
            prop_assert!(writer.stream().is_empty(), "nothing of it is written");
        }

        #[test]
        fn whatever_is_written_is_read(
            path in names(300), kind in kinds(), mode in 0_u16..0o10000, uid: u32, gid: u32, mtime in times(),
            xattrs in proptest::collection::btree_map("user\\.[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..100), 0..3),
        ) {
            let member = Member { path, meta: Meta { mode, uid, gid, mtime, xattrs: BTreeMap::from_iter(xattrs).into() }, kind };
            let length = match &member.kind {
                Kind::File { parts: Some(parts), .. } => parts.iter().map(|part| part.length).sum(),
                Kind::File { size, parts: None } => *size,
                _ => 0,
            };
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let (read, got) = there_and_back(&member, &content);
            prop_assert_eq!(read, member);
            prop_assert_eq!(got, content);
        }
    }
}
