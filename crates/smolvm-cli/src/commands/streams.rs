//! Where a guest command's output goes: straight through, or into a bounded buffer.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::signals::SignalPipe;

/// Most bytes of one stream that `--json` gives back.
const CAP: usize = 1 << 20;
/// What a pipe that is writable at all takes without blocking.
const PIECE: usize = 4096;
/// How long a reader may keep us waiting after a signal came.
const GRACE: Duration = Duration::from_secs(2);
/// The same where the signal had come before the wait began: the end of the command must get through in time.
const GRACE_AFTER: Duration = Duration::from_millis(500);
/// What a writer to a closed pipe gets from the kernel.
const SIGPIPE: i32 = 13;

/// One of our own streams, written byte for byte.
///
/// A reader that went away ends the guest command the way it would end a local one, with SIGPIPE. A
/// reader that does not read holds the command up, but not our own end when a signal asks for it.
pub(super) struct Screen<'a> {
    fd: BorrowedFd<'a>,
    signals: &'a SignalPipe,
    first: Option<Box<dyn FnOnce() + 'a>>,
    gone: bool,
}

impl<'a> Screen<'a> {
    pub(super) fn new(stream: &'a impl AsFd, signals: &'a SignalPipe) -> Self {
        Self { fd: stream.as_fd(), signals, first: None, gone: false }
    }

    /// Does something before the first byte.
    #[must_use]
    pub(super) fn after(mut self, first: impl FnOnce() + 'a) -> Self {
        self.first = Some(Box::new(first));
        self
    }

    /// Waits until the stream takes something, or a signal has waited long enough.
    fn wait(&self) -> io::Result<()> {
        // One that came before is passed on already, and the command has two seconds from then to be heard of its end.
        let mut late = self.signals.passed_on().then(|| Instant::now() + GRACE_AFTER);
        loop {
            let mut fds = vec![PollFd::from_borrowed_fd(self.fd, PollFlags::OUT)];
            if late.is_none() {
                fds.push(PollFd::from_borrowed_fd(self.signals.fd(), PollFlags::IN));
            }
            let left = late.map(|at| at.saturating_duration_since(Instant::now())).and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(()),
                Ok(_) => late = Some(Instant::now() + GRACE),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Write for Screen<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(first) = self.first.take() {
            first();
        }
        if self.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        loop {
            if let Err(e) = self.wait() {
                // Waited out once, it is not waited for again: what else the guest says is dropped.
                self.gone = true;
                return Err(e);
            }
            match rustix::io::write(self.fd, &bytes[..bytes.len().min(PIECE)]) {
                // Somebody who shares the terminal or pipe with us made it non-blocking.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::PIPE) => {
                    self.gone = true;
                    self.signals.push(SIGPIPE);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first bytes of a stream; the rest is read and dropped.
#[derive(Debug, Default)]
pub(super) struct Captured {
    bytes: Vec<u8>,
    truncated: bool,
}

impl Captured {
    /// As text; what is not UTF-8 is replaced, because JSON cannot hold it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CAP - self.bytes.len();
        let kept = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.truncated |= kept < bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_capture_is_bounded_and_says_so() {
        let mut captured = Captured::default();
        captured.write_all(&vec![b'x'; CAP]).unwrap();
        assert!(!captured.is_truncated());
        captured.write_all(b"y").unwrap();
        assert!(captured.is_truncated());
        assert_eq!(captured.text().len(), CAP);
    }

    #[test]
    fn bytes_pass_unchanged() {
        let signals = SignalPipe::interrupt().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            std::fs::File::from(read).read_to_end(&mut got).unwrap();
            got
        });
        Screen::new(&write, &signals).write_all(&sent).unwrap();
        drop(write);
        assert_eq!(reader.join().unwrap(), sent);
    }

    #[test]
    fn a_lost_reader_becomes_a_signal() {
        let signals = SignalPipe::interrupt().unwrap();
        let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
        drop(read);
        let mut screen = Screen::new(&write, &signals);
        assert_eq!(screen.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(screen.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut byte = [0; 8];
        assert_eq!(rustix::io::read(signals.fd(), &mut byte[..]), Ok(1));
        assert_eq!(byte[0], 13);
    }

    #[test]
    fn a_signal_frees_us_from_a_reader_that_does_not_read() {
        let signals = SignalPipe::interrupt().unwrap();
        let (_read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
        signals.push(2);
        let begin = Instant::now();
        let mut screen = Screen::new(&write, &signals);
        let error = screen.write_all(&vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() >= GRACE);
        // Read by somebody else before the stream was full, it still counts.
        let mut byte = [0; 1];
        assert_eq!(rustix::io::read(signals.fd(), &mut byte[..]), Ok(1));
        let mut other = Screen::new(&write, &signals);
        let begin = Instant::now();
        assert_eq!(other.write_all(b"more").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((GRACE_AFTER..GRACE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        let again = Instant::now();
        assert_eq!(screen.write_all(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(again.elapsed() < GRACE / 2, "it waited for the reader once more");
    }
}
