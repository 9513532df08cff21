//! What the child waits for: descriptors, arguments, and the leave to execute.
//!
//! ```text
//!   Order::send ──► head (24 bytes, all descriptors with it) ─► their numbers (a byte each) ─► arguments (each with a NUL) ──► child: take
//! ```
//!
//! Both ends are this program, in one machine's memory order; the child believes no length all the same, for it writes where others are read.

#![allow(unsafe_code, reason = "recvmsg in a process that may not allocate")]

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::io::{ErrorKind, IoSlice, Result, Write};
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Descriptors that are handed over at most, and the first number that none of them has.
pub(super) const MOST_FDS: usize = 40;
/// Bytes of arguments at most; a hypervisor's are 3 KiB.
pub(super) const MOST_TEXT: usize = 64 << 10;
/// Arguments at most; a hypervisor has a hundred.
pub(super) const MOST_WORDS: usize = 1024;

const HEAD: usize = 24;

/// What the program gets once all of it is there.
#[derive(Debug)]
pub struct Order<'a> {
    /// Its argument vector, `argv[0]` included.
    pub argv: Vec<String>,
    /// Every descriptor it inherits, and under which number (below 40).
    pub fds: Vec<(&'a OwnedFd, c_int)>,
    /// Longest file that it can write, in bytes.
    pub file_size: u64,
}

impl Order<'_> {
    /// Sends it. An error says what is wrong with it, or that nobody takes it any more.
    pub(super) fn send(&self, mut socket: &UnixStream) -> Result<()> {
        let too_much = |what: &'static str| std::io::Error::new(ErrorKind::InvalidInput, what);
        let numbers: Vec<u8> = self.fds.iter().filter_map(|(_, number)| u8::try_from(*number).ok()).collect();
        if numbers.len() != self.fds.len() || numbers.len() > MOST_FDS {
            return Err(too_much("too many descriptors"));
        }
        let mut text = Vec::new();
        for word in &self.argv {
            if word.as_bytes().contains(&0) {
                return Err(too_much("an argument contains a NUL byte"));
            }
            text.extend_from_slice(word.as_bytes());
            text.push(0);
        }
        if text.len() > MOST_TEXT || self.argv.len() > MOST_WORDS {
            return Err(too_much("too many arguments"));
        }
        let mut head = [0; HEAD];
        for (place, number) in head.chunks_exact_mut(8).zip([numbers.len() as u64, text.len() as u64, self.file_size]) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        let fds: Vec<BorrowedFd<'_>> = self.fds.iter().map(|(fd, _)| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(too_much("too many descriptors"));
        }
        // A few bytes into an empty socket: all of them or none.
        if sendmsg(socket, &[IoSlice::new(&head)], &mut control, SendFlags::NOSIGNAL)? != HEAD {
            return Err(ErrorKind::WriteZero.into());
        }
        socket.write_all(&numbers)?;
        socket.write_all(&text)
    }
}

/// An order as the child has it: the arguments are in the plan.
pub(super) struct Taken {
    /// Each descriptor as it came, and under which number it belongs.
    pub(super) fds: [(c_int, c_int); MOST_FDS],
    pub(super) count: usize,
    pub(super) file_size: u64,
}

/// Waits for an order, in the child. Allocates nothing.
pub(super) fn take(socket: c_int, text: &[Cell<u8>], argv: &[Cell<*const c_char>]) -> std::result::Result<Taken, i32> {
    let mut head = [0; HEAD];
    let (fds, came) = receive(socket, &mut head)?;
    let mut numbers = head.chunks_exact(8).map(|bytes| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        u64::from_ne_bytes(number)
    });
    let mut length = |most: usize| usize::try_from(numbers.next().unwrap_or(u64::MAX)).ok().filter(|n| *n <= most).ok_or(libc::EPROTO);
    let (count, bytes) = (length(MOST_FDS)?, length(text.len())?);
    let file_size = numbers.next().unwrap_or(0);
    if count != came {
        return Err(libc::EPROTO);
    }
    let mut targets = [0_u8; MOST_FDS];
    read_exact(socket, targets.as_mut_ptr(), count)?;
    if targets.iter().any(|target| usize::from(*target) >= MOST_FDS) {
        return Err(libc::EPROTO);
    }
    // A `Cell` is the byte in it, and nobody else reads them.
    read_exact(socket, text.as_ptr().cast_mut().cast(), bytes)?;
    let mut taken = Taken { fds: [(-1, -1); MOST_FDS], count, file_size };
    for (place, (fd, target)) in taken.fds.iter_mut().zip(fds.into_iter().zip(targets)).take(count) {
        *place = (fd, c_int::from(target));
    }
    point(&text[..bytes], argv)?;
    Ok(taken)
}

/// Points to each word of a text in which each ends with a NUL; the last pointer of all stays null.
fn point(text: &[Cell<u8>], argv: &[Cell<*const c_char>]) -> std::result::Result<(), i32> {
    if text.last().is_some_and(|byte| byte.get() != 0) {
        return Err(libc::EPROTO);
    }
    let mut free = argv.iter().take(argv.len().saturating_sub(1));
    let mut begins = true;
    for byte in text {
        if begins {
            free.next().ok_or(libc::E2BIG)?.set(byte.as_ptr().cast_const().cast());
        }
        begins = byte.get() == 0;
    }
    Ok(())
}

/// Receives the head and the descriptors that come with it.
fn receive(socket: c_int, head: &mut [u8; HEAD]) -> std::result::Result<([c_int; MOST_FDS], usize), i32> {
    let mut fds = [-1; MOST_FDS];
    let mut came = 0;
    // SAFETY: message, data and control buffer live on this stack for the calls; the buffer is aligned as its elements are, and
    // has room for one header with so many descriptors. Only as many descriptors are read as the header says, and as there is room for.
    let got = unsafe {
        let mut control = [0_u64; (size_of::<libc::cmsghdr>() + MOST_FDS * size_of::<c_int>()).div_ceil(8) + 1];
        let mut data = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: HEAD };
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let got = loop {
            let got = libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_WAITALL);
            if got >= 0 || errno() != libc::EINTR {
                break got;
            }
        };
        if got < 0 {
            return Err(errno());
        }
        if message.msg_flags & libc::MSG_CTRUNC != 0 {
            return Err(libc::EPROTO);
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
            let bytes = (*header).cmsg_len.saturating_sub(size_of::<libc::cmsghdr>());
            came = (bytes / size_of::<c_int>()).min(MOST_FDS);
            std::ptr::copy_nonoverlapping(libc::CMSG_DATA(header), fds.as_mut_ptr().cast(), came * size_of::<c_int>());
        }
        got
    };
    match usize::try_from(got) {
        // Whoever would give one is gone.
        Ok(0) => Err(libc::EPIPE),
        Ok(HEAD) => Ok((fds, came)),
        _ => Err(libc::EPROTO),
    }
}

fn read_exact(socket: c_int, to: *mut u8, len: usize) -> std::result::Result<(), i32> {
    let mut done = 0;
    while done < len {
        // SAFETY: the caller has room for `len` bytes there, of which `done` are filled.
        match unsafe { libc::read(socket, to.add(done).cast(), len - done) } {
            0 => return Err(libc::EPIPE),
            got if got > 0 => done += got.cast_unsigned(),
            _ if errno() == libc::EINTR => {}
            _ => return Err(errno()),
        }
    }
    Ok(())
}

fn errno() -> i32 {
    // SAFETY: the C library gives the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd};

    use super::*;

    fn room() -> (Vec<Cell<u8>>, Vec<Cell<*const c_char>>) {
        (vec![Cell::new(7); 64], vec![Cell::new(std::ptr::null()); 4])
    }

    fn words(argv: &[Cell<*const c_char>]) -> Vec<String> {
        // SAFETY: `take` pointed them to words that end with a NUL.
        argv.iter()
            .map(Cell::get)
            .take_while(|word| !word.is_null())
            .map(|word| unsafe { CStr::from_ptr(word) }.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn an_order_arrives_with_its_descriptors_and_words() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ((one, mut end), null) = (UnixStream::pair().unwrap(), File::open("/dev/null").unwrap());
        let (one, null): (OwnedFd, OwnedFd) = (one.into(), null.into());
        let order = Order {
            argv: vec!["a".to_owned(), String::new(), "word with blanks".to_owned()],
            fds: vec![(&one, 8), (&null, 0)],
            file_size: 9 << 40,
        };
        order.send(&ours).unwrap();
        let (text, argv) = room();
        let taken = take(theirs.as_raw_fd(), &text, &argv).unwrap();
        assert_eq!((taken.count, taken.file_size, words(&argv)), (2, 9 << 40, order.argv.clone()));
        assert_eq!(taken.fds[..3].iter().map(|(_, target)| *target).collect::<Vec<_>>(), [8, 0, -1]);
        for (fd, _) in &taken.fds[..2] {
            // SAFETY: it came with the order, and belongs to nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(*fd) };
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            if fd.as_raw_fd() == taken.fds[0].0 {
                UnixStream::from(fd).write_all(b"x").unwrap();
            }
        }
        std::io::Read::read_exact(&mut end, &mut [0; 1]).unwrap();
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let send = |bytes: &[u8]| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            let (text, argv) = room();
            take(theirs.as_raw_fd(), &text, &argv).map(|taken| taken.count)
        };
        let head = |numbers: [u64; 3]| numbers.map(u64::to_ne_bytes).concat();
        assert_eq!(send(b""), Err(libc::EPIPE), "the one who would give it is gone");
        assert_eq!(send(b"short"), Err(libc::EPROTO));
        assert_eq!(send(&head([0, 0, 5])), Ok(0));
        assert_eq!(send(&head([1, 0, 5])), Err(libc::EPROTO), "a descriptor that did not come");
        assert_eq!(send(&head([0, 65, 5])), Err(libc::EPROTO), "more than there is room for");
        assert_eq!(send(&head([0, u64::MAX, 5])), Err(libc::EPROTO));
        assert_eq!(send(&head([0, 3, 5])), Err(libc::EPIPE), "words that did not come");
        assert_eq!(send(&[&head([0, 3, 5])[..], b"a\0b"].concat()), Err(libc::EPROTO), "a word without its end");
        assert_eq!(send(&[&head([0, 6, 5])[..], b"a\0b\0c\0"].concat()), Ok(0));
        assert_eq!(send(&[&head([0, 8, 5])[..], b"a\0b\0c\0d\0"].concat()), Err(libc::E2BIG), "more words than there is room for");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let order = |argv: Vec<String>| Order { argv, fds: Vec::new(), file_size: 0 }.send(&ours).unwrap_err().kind();
        assert_eq!(order(vec!["a\0b".to_owned()]), ErrorKind::InvalidInput);
        assert_eq!(order(vec!["x".repeat(MOST_TEXT)]), ErrorKind::InvalidInput);
        assert_eq!(order(vec![String::new(); MOST_WORDS + 1]), ErrorKind::InvalidInput);
    }
}
