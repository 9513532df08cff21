//! What targets make of their bytes.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The first byte, and the rest: which of several readers is meant.
pub(crate) fn choice(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest))
}

/// The rest after two bytes, whole and cut into pieces as the two say.
pub(crate) fn pieces(bytes: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let Some(([first, second], whole)) = bytes.split_first_chunk::<2>() else { return (&[], Vec::new()) };
    let mut pieces = Vec::new();
    let (mut rest, mut state) = (whole, u32::from(*first) << 8 | u32::from(*second));
    while !rest.is_empty() {
        // Mostly short pieces, and now and then a long one. Constants of a linear congruential generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let long = if state >> 28 == 0 { 1024 } else { 24 };
        let (piece, after) = rest.split_at(rest.len().min(1 + (state >> 8) as usize % long));
        pieces.push(piece);
        rest = after;
    }
    (whole, pieces)
}

/// The bytes as text; what is no text is no input for a reader of text.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// A place for files, in memory where the host has that.
pub(crate) fn directory() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let parent = ["/dev/shm", "/tmp"].into_iter().map(PathBuf::from).find(|place| place.is_dir()).unwrap_or_else(std::env::temp_dir);
        // Kept for the process's life, and taken over by the next one of the same target: a process that is killed removes nothing.
        let place = parent.join(format!("smolvm-fuzz-{}", std::env::var("SMOLVM_FUZZ_TARGET").unwrap_or_default()));
        let _ = fs::create_dir_all(&place);
        place
    })
}

/// A file with these bytes, for readers that take a path.
pub(crate) fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory().join(name);
    fs::write(&path, bytes).expect("a file in memory can be written");
    path
}
