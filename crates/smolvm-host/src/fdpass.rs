//! A descriptor that goes through a socket with the bytes that it belongs to.
//!
//! ```text
//!   send_with(bytes, fd) ──► SCM_RIGHTS, with the first of them ──► receive_with: some of the bytes, and the descriptor
//! ```
//!
//! Invariants: one at most goes with one call; what is received is closed when another program is executed; a descriptor
//! that cannot go along is an error, and none of the bytes are sent.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends some of the bytes, the descriptor with the first of them if there is one; gives how many went. A receiver that is gone is an
/// error, not a signal.
pub fn send_with(socket: impl AsFd, bytes: &[u8], fd: Option<BorrowedFd<'_>>, flags: SendFlags) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.as_slice();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("there is no room for the descriptor"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL)?)
}

/// Receives some bytes, and the descriptor that came with them if one did; gives how many there are, none at the end.
pub fn receive_with(socket: impl AsFd, bytes: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((got.bytes, fd))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    #[test]
    fn a_descriptor_goes_with_its_bytes_and_bytes_go_without() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (file, end) = UnixStream::pair().unwrap();
        assert_eq!(send_with(&ours, b"with", Some(file.as_fd()), SendFlags::empty()).unwrap(), 4);
        drop(file);
        let mut bytes = [0; 8];
        let (count, fd) = receive_with(&theirs, &mut bytes, RecvFlags::empty()).unwrap();
        let fd = fd.unwrap();
        assert_eq!(bytes[..count], *b"with");
        assert!(fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
        UnixStream::from(fd).write_all(b"x").unwrap();
        assert_eq!(receive_with(&end, &mut bytes, RecvFlags::empty()).unwrap().0, 1);
        send_with(&ours, b"out", None, SendFlags::empty()).unwrap();
        let (count, fd) = receive_with(&theirs, &mut bytes, RecvFlags::empty()).unwrap();
        assert!(count == 3 && fd.is_none());
        assert_eq!(receive_with(&theirs, &mut bytes, RecvFlags::DONTWAIT).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(receive_with(&theirs, &mut bytes, RecvFlags::empty()).unwrap().0, 0);
        assert_eq!(send_with(&theirs, b"x", None, SendFlags::empty()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
