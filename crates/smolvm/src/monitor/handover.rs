//! What the command that starts a monitor hands it, once all of it is there: its configuration, and descriptors.
//!
//! ```text
//!   a mark, with a descriptor, for each ─► a mark ─► length (4 bytes) ─► JSON
//! ```

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};
use smolvm_host::fdpass::{receive_with, send_with};

/// Longest configuration that is read; a real one has about 1.5 KiB.
const CAP: u32 = 64 << 10;

/// What comes with a mark.
const TEMPLATE: u8 = b't';
const TAP: u8 = b'n';
const TEXT: u8 = b'c';

/// What was handed over.
#[derive(Debug)]
pub(super) struct Handed {
    /// The configuration.
    pub(super) text: Vec<u8>,
    /// A template's directory.
    pub(super) template: Option<OwnedFd>,
    /// The guest's network device.
    pub(super) tap: Option<OwnedFd>,
}

/// Hands over a configuration, and descriptors that stay open there whatever becomes of this process.
pub(crate) fn send(mut socket: &UnixStream, text: &[u8], template: Option<BorrowedFd<'_>>, tap: Option<BorrowedFd<'_>>) -> io::Result<()> {
    for (mark, fd) in [(TEMPLATE, template), (TAP, tap)] {
        if fd.is_some() {
            send_with(socket, &[mark], fd, SendFlags::empty())?;
        }
    }
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    socket.write_all(&[&[TEXT], &length[..], text].concat())
}

/// Waits for it. None: the command has ended with nothing to hand over.
pub(super) fn receive(mut socket: &UnixStream) -> io::Result<Option<Handed>> {
    let (mut template, mut tap) = (None, None);
    loop {
        let mut mark = [0];
        match (receive_with(socket, &mut mark, RecvFlags::empty())?, mark[0]) {
            ((0, _), _) => return Ok(None),
            ((_, Some(fd)), TEMPLATE) => template = Some(fd),
            ((_, Some(fd)), TAP) => tap = Some(fd),
            ((_, None), TEXT) => break,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut text = vec![0; usize::try_from(u32::from_le_bytes(length).min(CAP)).unwrap_or(0)];
    socket.read_exact(&mut text)?;
    Ok(Some(Handed { text, template, tap }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_handed_over_arrives_with_its_descriptors_or_without() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((mut one, template), (mut other, tap)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        send(&ours, b"{}", Some(template.as_fd()), Some(tap.as_fd())).unwrap();
        send(&ours, b"[1]", None, Some(tap.as_fd())).unwrap();
        send(&ours, b"[2]", None, None).unwrap();
        drop((template, tap));
        let first = receive(&theirs).unwrap().unwrap();
        assert_eq!(first.text, b"{}");
        UnixStream::from(first.template.unwrap()).write_all(b"1").unwrap();
        UnixStream::from(first.tap.unwrap()).write_all(b"2").unwrap();
        let mut bytes = [0; 2];
        one.read_exact(&mut bytes[..1]).unwrap();
        other.read_exact(&mut bytes[1..]).unwrap();
        assert_eq!(&bytes, b"12");
        let second = receive(&theirs).unwrap().unwrap();
        assert!(second.text == b"[1]" && second.template.is_none() && second.tap.is_some());
        let third = receive(&theirs).unwrap().unwrap();
        assert!(third.text == b"[2]" && third.template.is_none() && third.tap.is_none());
        (&ours).write_all(b"n").unwrap();
        assert_eq!(receive(&theirs).unwrap_err().kind(), io::ErrorKind::InvalidData, "a mark without what it announces");
        drop(ours);
        assert!(receive(&theirs).unwrap().is_none());
    }
}
