//! What a blob is packed with is seen from its first bytes: media types of layers are known to be wrong.

use std::io::{self, BufReader, Cursor, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Window of a zstd stream at most: 2^27 is what its own tool allows.
const MAX_WINDOW_LOG: u32 = 27;
/// What it may be whatever its first frame says: 2^25 is the largest that registries' tools write.
const USUAL_WINDOW_LOG: u32 = 25;
/// Magic number and the longest header of a frame.
const HEAD: usize = 18;

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

/// A stream that is unpacked while it is read.
pub struct Decompressed<'a> {
    stream: Box<dyn Read + Send + 'a>,
    extra: usize,
}

impl Decompressed<'_> {
    /// Bytes of memory that the decoder may take beyond what is usual.
    pub fn extra_memory(&self) -> usize {
        self.extra
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }
}

/// Unpacks a stream, if it is packed.
pub fn decompress<'a>(mut packed: impl Read + Send + 'a) -> io::Result<Decompressed<'a>> {
    let mut head = [0; HEAD];
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
        let stream = Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole)));
        return Ok(Decompressed { stream, extra: 0 });
    }
    if Packing::of(&start) == Packing::Zstd {
        // What a later frame may ask for is no more than what the first one does, or what is usual.
        let log = window_log(&start[ZSTD.len()..]).clamp(USUAL_WINDOW_LOG, MAX_WINDOW_LOG);
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(log)?;
        return Ok(Decompressed { stream: Box::new(decoder), extra: (1 << log) - (1 << USUAL_WINDOW_LOG) });
    }
    Ok(Decompressed { stream: Box::new(whole), extra: 0 })
}

/// The power of two that a frame's window fits into, by its header (RFC 8878, 3.1.1.1); nothing is taken for granted of what follows.
fn window_log(header: &[u8]) -> u32 {
    let byte = |at: usize| header.get(at).copied().unwrap_or_default();
    let descriptor = byte(0);
    let is_single = descriptor & 0x20 != 0;
    if !is_single {
        let (exponent, mantissa) = (u32::from(byte(1) >> 3), byte(1) & 7);
        return 10 + exponent + u32::from(mantissa != 0);
    }
    // The whole content is the window, and its length stands behind the dictionary's number.
    let start = 1 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let length = 1_usize << (descriptor >> 6);
    let content = (0..length).rev().fold(0_u64, |size, at| size << 8 | u64::from(byte(start + at)));
    content.checked_next_power_of_two().map_or(u64::BITS, u64::ilog2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(log: u32, known: Option<u64>) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.set_pledged_src_size(known).unwrap();
        encoder.include_contentsize(known.is_some()).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![7; usize::try_from(known.unwrap_or(3 << 20)).unwrap()]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_window_is_known_from_the_first_frame() {
        for log in 10..=27 {
            assert_eq!(window_log(&packed(log, None)[4..]), log);
        }
        // A frame that is one segment: content of one, two and four bytes of length.
        for (size, log) in [(200, 8), (60_000, 16), (1 << 20, 20), ((1 << 20) + 1, 21)] {
            assert_eq!(window_log(&packed(27, Some(size))[4..]), log, "{size}");
        }
        // An eighth more than a power of two, and headers that end early or lie.
        assert_eq!((window_log(&[0, 17 << 3 | 1]), window_log(&[]), window_log(&[0xe0; 14])), (28, 10, 64));
    }

    #[test]
    fn a_window_larger_than_usual_is_told_and_a_later_one_cannot_be_larger() {
        let of = |bytes: Vec<u8>| decompress(std::io::Cursor::new(bytes)).unwrap();
        let read = |mut stream: Decompressed<'_>| std::io::copy(&mut stream, &mut std::io::sink());
        assert_eq!((of(b"plain".to_vec()).extra_memory(), of(packed(20, None)).extra_memory()), (0, 0));
        assert_eq!(of(packed(27, None)).extra_memory(), (128 << 20) - (32 << 20));
        assert_eq!(read(of(packed(27, None))).unwrap(), 3 << 20);
        assert_eq!(read(of([packed(20, None), packed(25, None)].concat())).unwrap(), 6 << 20);
        assert!(read(of([packed(20, None), packed(26, None)].concat())).is_err());
    }
}
