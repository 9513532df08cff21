//! What the command that starts a monitor tells it: what it is to run at once, and once all of it is there what was made for that, with descriptors.
//!
//! ```text
//!   a run:     a mark ─► length (4 bytes) ─► JSON
//!   its parts: a mark, with a descriptor, for each ─► a mark ─► length (4 bytes) ─► JSON
//! ```

use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags};
use smolvm_host::fdpass::{receive_with, send_with};

/// Longest text that is read; a real one has about 1.5 KiB.
const CAP: u32 = 64 << 10;

/// What comes with a mark.
const RUN: u8 = b'r';
const TEMPLATE: u8 = b't';
const TAP: u8 = b'n';
const PARTS: u8 = b'p';

/// What was handed over.
#[derive(Debug)]
pub(super) struct Handed {
    /// What else is to be said of it.
    pub(super) text: Vec<u8>,
    /// A template's directory.
    pub(super) template: Option<OwnedFd>,
    /// The guest's network device.
    pub(super) tap: Option<OwnedFd>,
}

/// Says what it is to run, for which there is enough to do until the parts are there.
pub(crate) fn tell(socket: &UnixStream, text: &[u8]) -> io::Result<()> {
    say(socket, RUN, text)
}

/// Hands over the parts, and descriptors that stay open there whatever becomes of this process.
pub(crate) fn hand_over(socket: &UnixStream, text: &[u8], template: Option<BorrowedFd<'_>>, tap: Option<BorrowedFd<'_>>) -> io::Result<()> {
    for (mark, fd) in [(TEMPLATE, template), (TAP, tap)] {
        if fd.is_some() {
            send_with(socket, &[mark], fd, SendFlags::empty())?;
        }
    }
    say(socket, PARTS, text)
}

fn say(mut socket: &UnixStream, mark: u8, text: &[u8]) -> io::Result<()> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    socket.write_all(&[&[mark], &length[..], text].concat())
}

/// Waits for the first. None: the command has ended.
pub(super) fn receive_run(socket: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut mark = [0];
    match (receive_with(socket, &mut mark, RecvFlags::empty())?, mark[0]) {
        ((0, _), _) => Ok(None),
        ((_, None), RUN) => text(socket).map(Some),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Waits for the second. None: the command has ended with nothing to hand over.
pub(super) fn receive_parts(socket: &UnixStream) -> io::Result<Option<Handed>> {
    let (mut template, mut tap) = (None, None);
    loop {
        let mut mark = [0];
        match (receive_with(socket, &mut mark, RecvFlags::empty())?, mark[0]) {
            ((0, _), _) => return Ok(None),
            ((_, Some(fd)), TEMPLATE) => template = Some(fd),
            ((_, Some(fd)), TAP) => tap = Some(fd),
            ((_, None), PARTS) => return Ok(Some(Handed { text: text(socket)?, template, tap })),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn text(mut socket: &UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut text = vec![0; usize::try_from(u32::from_le_bytes(length).min(CAP)).unwrap_or(0)];
    socket.read_exact(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_handed_over_arrives_with_its_descriptors_or_without() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((mut one, template), (mut other, tap)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        tell(&ours, b"{\"here\":1}").unwrap();
        hand_over(&ours, b"{}", Some(template.as_fd()), Some(tap.as_fd())).unwrap();
        hand_over(&ours, b"[1]", None, Some(tap.as_fd())).unwrap();
        hand_over(&ours, b"[2]", None, None).unwrap();
        drop((template, tap));
        assert_eq!(receive_run(&theirs).unwrap().unwrap(), b"{\"here\":1}");
        let first = receive_parts(&theirs).unwrap().unwrap();
        assert_eq!(first.text, b"{}");
        UnixStream::from(first.template.unwrap()).write_all(b"1").unwrap();
        UnixStream::from(first.tap.unwrap()).write_all(b"2").unwrap();
        let mut bytes = [0; 2];
        one.read_exact(&mut bytes[..1]).unwrap();
        other.read_exact(&mut bytes[1..]).unwrap();
        assert_eq!(&bytes, b"12");
        let second = receive_parts(&theirs).unwrap().unwrap();
        assert!(second.text == b"[1]" && second.template.is_none() && second.tap.is_some());
        let third = receive_parts(&theirs).unwrap().unwrap();
        assert!(third.text == b"[2]" && third.template.is_none() && third.tap.is_none());
        (&ours).write_all(b"n").unwrap();
        assert_eq!(receive_parts(&theirs).unwrap_err().kind(), io::ErrorKind::InvalidData, "a mark without what it announces");
        hand_over(&ours, b"", None, None).unwrap();
        assert_eq!(receive_run(&theirs).unwrap_err().kind(), io::ErrorKind::InvalidData, "nobody has said what it is to run");
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(receive_run(&theirs).unwrap().is_none() && receive_parts(&theirs).unwrap().is_none());
    }
}
