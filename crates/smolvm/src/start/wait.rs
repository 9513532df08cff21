//! Waiting for the monitor's word.

use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use smolvm_model::error_code::ErrorCode;

use crate::copy::Whole;
use crate::error::{Error, io_code};
use crate::monitor::Report;
use crate::run::has_signal;

/// How long a start is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience<'a> {
    whole: Duration,
    until: Instant,
    /// Readable once the caller was told to give up.
    signals: Option<BorrowedFd<'a>>,
}

impl<'a> Patience<'a> {
    /// So long from now, or until `signals` can be read.
    pub(crate) fn new(whole: Duration, signals: Option<BorrowedFd<'a>>) -> Self {
        // A year for who wants to wait for ever.
        let until = Instant::now() + whole.min(Duration::from_hours(24 * 365));
        Self { whole, until, signals }
    }

    /// Half of what is left of it.
    pub(crate) fn half(&self) -> Self {
        Self::new(self.left() / 2, self.signals)
    }

    /// The same from now on: what was waited for was no guest.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.whole, self.signals)
    }

    fn late(&self) -> Error {
        Error::new(ErrorCode::Timeout, format!("the guest did not answer within {} s", self.whole.as_secs()))
            .hint("smolvm logs NAME shows its console; smolvm doctor shows how fast guests run here")
    }

    /// What is left of it.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

/// How often somebody who waits for one thing looks at the others.
const SLICE: Duration = Duration::from_millis(50);

/// Waits until the memory is whole, however long that takes; or until the monitor has something to say before that, which is that it ends.
pub(super) fn wait_for_memory(socket: &UnixStream, whole: &Whole, patience: Patience<'_>) -> Result<(), Error> {
    loop {
        if let Some(told) = whole.wait(SLICE) {
            return told;
        }
        if patience.signals.is_some_and(has_signal) {
            return Err(interrupted());
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0) {
            return Ok(());
        }
    }
}

/// Waits until the monitor has something to say.
fn wait_for_word(socket: &UnixStream, patience: Patience<'_>) -> Result<(), Error> {
    let mut fds = vec![PollFd::new(socket, PollFlags::IN)];
    fds.extend(patience.signals.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    loop {
        let timeout = Timespec::try_from(patience.left()).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(patience.late()),
            Ok(_) if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) => {
                return Err(interrupted());
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Error::new(ErrorCode::Internal, "the monitor cannot be waited for").because(e)),
        }
    }
}

fn interrupted() -> Error {
    Error::new(ErrorCode::Interrupted, "interrupted while the sandbox started")
}

/// Waits for the monitor's report.
pub(super) fn wait_for_report(socket: UnixStream, patience: Patience<'_>) -> Result<Report, Error> {
    wait_for_word(&socket, patience)?;
    let lost = |e: std::io::Error| Error::new(io_code(&e), "the monitor cannot be heard").because(e);
    // A monitor writes its line in one piece.
    socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(lost)?;
    let mut line = String::new();
    match BufReader::new(socket).read_line(&mut line) {
        // It was killed before it had read all that it was told.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        read => read.map(drop).map_err(lost)?,
    }
    match serde_json::from_str::<Report>(&line) {
        Ok(report) => Ok(report),
        // It says why it cannot go on; what keeps it from that is a signal, or a defect that its log tells.
        Err(_) => Err(Error::new(ErrorCode::GuestError, "the monitor was killed before it could say anything")
            .hint("smolvm start NAME; smolvm logs NAME --log monitor")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_monitor_that_was_killed_has_said_nothing_whether_or_not_it_had_read_what_it_was_told() {
        for told in [&b""[..], b"what it is to run"] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(told).unwrap();
            drop(theirs);
            let lost = wait_for_report(ours, Patience::new(Duration::from_secs(5), None)).unwrap_err();
            assert_eq!(lost.code, ErrorCode::GuestError, "{}", lost.one_line());
        }
    }
}
