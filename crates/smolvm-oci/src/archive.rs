//! An OCI layout in a tar archive, as `skopeo`, `podman` and `docker` read and write it.
//!
//! ```text
//!   oci-layout    index.json    blobs/sha256/<digits>
//! ```
//!
//! Written in a fixed order with fixed times, so the same image gives the same bytes. Read in whatever order the members come; names
//! that are none of the three kinds are passed over, and nothing in an archive is a path of this host.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::Digest;
use crate::digest::Hashing;
use crate::document::{Descriptor, MAX_MANIFEST, media};
use crate::layer::{Kind, Layer, LayerError};

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const BLOBS: &[u8] = b"blobs/sha256/";
/// Where an index says what an image is called.
pub const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// A member that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// The index, whole.
    Index(Vec<u8>),
    /// A blob of this length; its content is what the archive gives next.
    Blob {
        /// Its digest, as its name says.
        digest: Digest,
        /// Its length.
        size: u64,
    },
}

/// The next member of an archive that counts.
pub fn next<R: Read>(archive: &mut Layer<R>) -> Result<Option<Member>, LayerError> {
    while let Some(member) = archive.next_member()? {
        let Kind::File { size, parts: None } = member.kind else { continue };
        let path = member.path.strip_prefix(b"./").unwrap_or(&member.path);
        if path == b"index.json" && size <= MAX_MANIFEST {
            let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
            archive.read_exact(&mut bytes).map_err(|e| archive.broken(e))?;
            return Ok(Some(Member::Index(bytes)));
        }
        let digits = path.strip_prefix(BLOBS).and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(digest) = digits.and_then(|digits| format!("sha256:{digits}").parse().ok()) {
            return Ok(Some(Member::Blob { digest, size }));
        }
    }
    Ok(None)
}

/// The text of an index with one image of that name, whose manifest is of this type.
pub fn index(name: &str, tag: Option<&str>, media_type: &str, manifest: &Digest, size: u64) -> Vec<u8> {
    let [full, short] = NAMES;
    let mut annotations = BTreeMap::from([(full.to_owned(), name.to_owned())]);
    annotations.insert(short.to_owned(), tag.unwrap_or("latest").to_owned());
    let descriptor = Descriptor { media_type: media_type.to_owned(), digest: manifest.clone(), size, platform: None, annotations };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": [descriptor]});
    index.to_string().into_bytes()
}

/// Writes the beginning of an archive.
pub fn begin(out: &mut impl Write, index: &[u8]) -> io::Result<()> {
    for directory in ["blobs/", "blobs/sha256/"] {
        out.write_all(header(directory, EntryType::Directory, 0)?.as_bytes())?;
    }
    small(out, "oci-layout", LAYOUT)?;
    small(out, "index.json", index)
}

/// Writes a blob; one that is not what its name says is an error, and nothing to go on with.
pub fn blob(out: &mut impl Write, digest: &Digest, size: u64, content: impl Read) -> io::Result<()> {
    let name = format!("blobs/sha256/{}", digest.hex());
    out.write_all(header(&name, EntryType::Regular, size)?.as_bytes())?;
    let mut hashing = Hashing::new(content.take(size + 1));
    io::copy(&mut hashing, out)?;
    let (actual, bytes) = hashing.finish();
    if actual != *digest || bytes != size {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the blob {digest} is damaged")));
    }
    pad(out, size)
}

/// Writes its end.
pub fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}

fn small(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let size = bytes.len() as u64;
    out.write_all(header(name, EntryType::Regular, size)?.as_bytes())?;
    out.write_all(bytes)?;
    pad(out, size)
}

fn header(name: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(header)
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from((512 - size % 512) % 512).unwrap_or_default();
    out.write_all(&[0; 512][..rest])
}
