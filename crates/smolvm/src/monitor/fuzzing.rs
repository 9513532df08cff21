//! The two lines a monitor reads: the guest's and a client's.

use std::io::Write;
use std::os::unix::net::UnixStream;

use smolvm_proto::{Frame, Nonce};

use super::client::{Client, Heard};
use super::guest::Guest;

/// What is understood of a guest that says `chunks`; the second value says whether it is still listened to.
pub fn guest(nonce: Nonce, chunks: &[&[u8]]) -> std::io::Result<(Vec<Frame>, bool)> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let mut guest = Guest::new(ours, nonce);
    let mut frames = Vec::new();
    for chunk in chunks {
        theirs.write_all(chunk)?;
        let mut left = chunk.len();
        while left > 0 && !guest.is_closed() {
            frames.extend(guest.read().unwrap_or_default());
            left = left.saturating_sub(16 << 10);
        }
    }
    Ok((frames, !guest.is_closed()))
}

/// What is understood of a client that says `chunks`; the second value says whether it is still listened to.
pub fn client(chunks: &[&[u8]]) -> std::io::Result<(Vec<Frame>, bool)> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let mut client = Client::new(1, ours);
    let mut frames = Vec::new();
    for chunk in chunks {
        theirs.write_all(chunk)?;
        let mut left = chunk.len();
        while left > 0 {
            match client.read() {
                Heard::Frames(heard) => frames.extend(heard),
                Heard::Gone => return Ok((frames, false)),
            }
            left = left.saturating_sub(16 << 10);
        }
    }
    Ok((frames, true))
}
