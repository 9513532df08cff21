//! What a blob is packed with is seen from its first bytes: media types of layers are known to be wrong.

use std::io::{self, BufReader, Cursor, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Memory that a zstd stream may ask for: 2^27 is what its own tool allows.
const WINDOW_LOG: u32 = 27;

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
    if start.starts_with(&GZIP) {
        // Several members one after the other are one stream: parallel packers write that.
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, whole))));
    }
    if start == ZSTD {
        let mut decoder = zstd::Decoder::new(whole)?;
        decoder.window_log_max(WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}
