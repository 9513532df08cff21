//! What the command that starts a monitor hands it: its configuration, and a descriptor where there is one.
//!
//! ```text
//!   length (4 bytes, with the descriptor) ─► JSON
//! ```

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};
use smolvm_host::fdpass::{receive_with, send_with};

/// Longest configuration that is read; a real one has about 1.5 KiB.
const CAP: u32 = 64 << 10;

/// Hands over a configuration, and a descriptor that stays open there whatever becomes of this process.
pub(crate) fn send(mut socket: &UnixStream, text: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    let sent = send_with(socket, &length, fd, SendFlags::empty())?;
    socket.write_all(&length[sent..])?;
    socket.write_all(text)
}

/// What was handed over.
pub(super) fn receive(mut socket: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut length = [0; 4];
    let (got, fd) = receive_with(socket, &mut length, RecvFlags::empty())?;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    socket.read_exact(&mut length[got..])?;
    let mut text = vec![0; usize::try_from(u32::from_le_bytes(length).min(CAP)).unwrap_or(0)];
    socket.read_exact(&mut text)?;
    Ok((text, fd))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_handed_over_arrives_with_its_descriptor_or_without() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut out, file) = UnixStream::pair().unwrap();
        send(&ours, b"{}", Some(file.as_fd())).unwrap();
        drop(file);
        send(&ours, b"[1]", None).unwrap();
        drop(ours);
        let (text, fd) = receive(&theirs).unwrap();
        assert_eq!(text, b"{}");
        UnixStream::from(fd.unwrap()).write_all(b"x").unwrap();
        out.read_exact(&mut [0]).unwrap();
        let (text, fd) = receive(&theirs).unwrap();
        assert!(text == b"[1]" && fd.is_none());
        assert_eq!(receive(&theirs).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
