//! What a blob is packed with is seen from its first bytes: media types of layers are known to be wrong.

use std::io::{self, BufReader, Cursor, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Memory that a zstd stream may ask for: 2^27 is what its own tool allows.
const WINDOW_LOG: u32 = 27;

/// What a stream is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Nothing.
    Plain,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// Something that no layer may be packed with, and the program that unpacks it.
    Foreign {
        /// As it is called.
        tool: &'static str,
    },
}

impl Packing {
    /// As its first bytes say; six are enough.
    pub fn of(head: &[u8]) -> Self {
        if head.starts_with(&GZIP) {
            Self::Gzip
        } else if head.starts_with(&ZSTD) {
            Self::Zstd
        } else if head.starts_with(b"\xfd7zXZ\0") {
            Self::Foreign { tool: "xz" }
        } else if head.starts_with(b"BZh") {
            Self::Foreign { tool: "bzip2" }
        } else {
            Self::Plain
        }
    }
}

/// The unpacked stream.
pub type Decompressed<'a> = Box<dyn Read + Send + 'a>;

/// Unpacks a stream, if it is packed.
pub fn decompress<'a>(mut packed: impl Read + Send + 'a) -> io::Result<Decompressed<'a>> {
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match packed.read(&mut head[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let start = head[..have].to_vec();
    let whole = Cursor::new(start.clone()).chain(packed);
    if Packing::of(&start) == Packing::Gzip {
        // Several members one after the other are one stream: parallel packers write that.
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole))));
    }
    if Packing::of(&start) == Packing::Zstd {
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}
