//! The conversation of one `exec` with the monitor: streams both ways, signals, deadlines, and how it ended.
//!
//! Invariants: it waits at one place only; whatever the monitor does or leaves undone, a signal and the deadline get through;
//! what the monitor said before it ended counts.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use smolvm_model::error_code::ErrorCode;
use smolvm_proto::{
    Channel, ExecExit, Frame, FrameKind, MAX_PAYLOAD, MonitorErrorCode, MonitorReply, ReceiveWindow, SendWindow, StreamControl, decode,
    encode,
};

use super::{ExecIo, ExecOutcome};
use crate::error::Error;
use crate::session::Session;

/// How long a guest command may take to end after a signal was passed on to it.
const AFTER_SIGNAL: Duration = Duration::from_secs(2);
/// A signal that comes again so soon is the same one: `timeout` sends it to its child and then to the child's group.
const SAME_SIGNAL: Duration = Duration::from_millis(100);
/// How long after the guest's own deadline the answer may come before the guest is called wedged.
const AFTER_TIMEOUT: Duration = Duration::from_secs(10);
/// A client's streams are its own: one exec a connection.
const STREAM: u32 = 1;

pub(super) struct Exec<'a> {
    session: Session,
    io: ExecIo<'a>,
    out: Vec<u8>,
    /// The monitor takes no more; what it said before may still be there to read.
    deaf: bool,
    send: SendWindow,
    stdout: ReceiveWindow,
    stderr: ReceiveWindow,
    stdin_open: bool,
    started: Instant,
    give_up: Option<Instant>,
    /// The last signal that was passed on, and when.
    signalled: Option<(u8, Instant)>,
    outcome: ExecOutcome,
}

impl<'a> Exec<'a> {
    pub(super) fn new(session: Session, io: ExecIo<'a>, timeout: Option<Duration>) -> Self {
        let started = Instant::now();
        Self {
            session,
            stdin_open: io.stdin.is_some(),
            io,
            out: Vec::new(),
            deaf: false,
            send: SendWindow::default(),
            stdout: ReceiveWindow::default(),
            stderr: ReceiveWindow::default(),
            started,
            give_up: timeout.map(|t| started + t + AFTER_TIMEOUT),
            signalled: None,
            outcome: ExecOutcome::default(),
        }
    }

    pub(super) fn run(mut self, open: Vec<u8>) -> Result<ExecOutcome, Error> {
        Frame::on_stream(FrameKind::Open, STREAM, open).encode_into(&mut self.out);
        loop {
            while let Some(frame) = self.session.next_frame()? {
                if self.take(&frame)? {
                    self.outcome.duration = self.started.elapsed();
                    return Ok(self.outcome);
                }
            }
            self.flush();
            match self.wait()? {
                Ready::Socket => self.session.fill()?,
                Ready::Room => {}
                Ready::Stdin => self.read_stdin(),
                Ready::Signal => self.pass_signal(),
                Ready::Late => return Ok(self.late()),
            }
        }
    }

    fn wait(&self) -> Result<Ready, Error> {
        let room = if self.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let mut fds = vec![PollFd::new(&self.session.socket, PollFlags::IN | room)];
        let signals = self.io.signals.inspect(|fd| fds.push(PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        // What the monitor has not taken yet comes first.
        let stdin = self.io.stdin.filter(|_| self.stdin_open && self.out.is_empty() && self.send.available() > 0);
        if let Some(fd) = stdin {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        loop {
            // Asked first, for a guest that keeps talking makes each wait succeed.
            let left = self.give_up.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Ready::Late);
            }
            let timeout = left.and_then(|l| Timespec::try_from(l).ok());
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(e) => return Err(Error::new(ErrorCode::Internal, "waiting for the guest failed").because(e)),
            }
        }
        if signals.is_some() && !fds[1].revents().is_empty() {
            return Ok(Ready::Signal);
        }
        Ok(match fds[0].revents() {
            PollFlags::OUT => Ready::Room,
            nothing if nothing.is_empty() => Ready::Stdin,
            _ => Ready::Socket,
        })
    }

    /// Handles one frame; true when it was the last.
    fn take(&mut self, frame: &Frame) -> Result<bool, Error> {
        let odd = |e: &dyn std::error::Error| Error::new(ErrorCode::GuestError, format!("the guest broke the protocol: {e}"));
        match (frame.kind, frame.as_ref().channel()) {
            (FrameKind::Data, Some(channel @ (Channel::Stdout | Channel::Stderr))) => {
                let (window, sink): (&mut ReceiveWindow, &mut dyn Write) = match channel {
                    Channel::Stderr => (&mut self.stderr, &mut *self.io.stderr),
                    Channel::Stdout | Channel::Stdin => (&mut self.stdout, &mut *self.io.stdout),
                };
                window.received(frame.payload.len()).map_err(|e| odd(&e))?;
                // A reader that went away ends the pipe, not the command: the rest is read and dropped.
                let _ = sink.write_all(&frame.payload).and_then(|()| sink.flush());
                if let Some(grant) = window.consumed(frame.payload.len()) {
                    Frame::credit(STREAM, channel, grant).encode_into(&mut self.out);
                }
            }
            (FrameKind::Credit, _) => {
                if let Some(grant) = frame.as_ref().granted() {
                    self.send.grant(grant).map_err(|e| odd(&e))?;
                }
            }
            (FrameKind::Exit, _) => {
                let exit: ExecExit = decode(&frame.payload).map_err(|e| odd(&e))?;
                self.outcome.code = exit.code;
                self.outcome.signal = exit.signal;
                self.outcome.timed_out = exit.timed_out;
                self.outcome.error = exit.error.map(|e| (e.kind, e.message));
                return Ok(true);
            }
            (FrameKind::Reset, _) => {
                return Err(
                    Error::new(ErrorCode::GuestError, "the guest ended, or gave the command up").hint("smolvm list; smolvm logs NAME")
                );
            }
            (FrameKind::Control, _) => {
                if let Ok(MonitorReply::Error { code, message }) = decode(&frame.payload) {
                    return Err(match code {
                        MonitorErrorCode::GuestNotReady => Error::new(ErrorCode::InvalidState, message).hint("smolvm inspect NAME"),
                        MonitorErrorCode::Paused => Error::new(ErrorCode::InvalidState, message).hint("smolvm resume NAME"),
                        MonitorErrorCode::Busy | MonitorErrorCode::Timeout | MonitorErrorCode::Unsupported | MonitorErrorCode::Engine => {
                            Error::new(ErrorCode::Busy, message)
                        }
                    });
                }
            }
            (FrameKind::Data | FrameKind::Eof | FrameKind::Open | FrameKind::StreamControl, _) => {}
        }
        Ok(false)
    }

    fn read_stdin(&mut self) {
        let Some(stdin) = self.io.stdin else { return };
        let room = self.send.available().min(MAX_PAYLOAD);
        let mut chunk = vec![0; room];
        match rustix::io::read(stdin, &mut chunk[..]) {
            Ok(0) => {
                self.stdin_open = false;
                Frame::eof(STREAM, Channel::Stdin).encode_into(&mut self.out);
            }
            Ok(count) => {
                let count = self.send.take(count);
                chunk.truncate(count);
                Frame::data(STREAM, Channel::Stdin, chunk).encode_into(&mut self.out);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal in the background, a closed descriptor: the command sees the end of its input.
            Err(_) => {
                self.stdin_open = false;
                Frame::eof(STREAM, Channel::Stdin).encode_into(&mut self.out);
            }
        }
    }

    /// The first signal goes to the command; the next gives it up.
    fn pass_signal(&mut self) {
        let Some(signals) = self.io.signals else { return };
        let mut byte = [0; 1];
        let Ok(1) = rustix::io::read(signals, &mut byte[..]) else { return };
        if self.signalled.is_some_and(|(last, at)| last == byte[0] && at.elapsed() < SAME_SIGNAL) {
            return;
        }
        let again = self.signalled.replace((byte[0], Instant::now())).is_some();
        self.outcome.interrupted = Some(i32::from(byte[0]));
        let signal = if again { 9 } else { i32::from(byte[0]) };
        if let Ok(payload) = encode(&StreamControl::Signal { signal }) {
            Frame::on_stream(FrameKind::StreamControl, STREAM, payload).encode_into(&mut self.out);
        }
        self.give_up = Some(Instant::now() + AFTER_SIGNAL);
    }

    /// Its end did not come in time: an interrupted command is left to the guest, anything else is a wedged
    /// guest, whose command has neither a status nor a signal.
    fn late(mut self) -> ExecOutcome {
        Frame::reset(STREAM).encode_into(&mut self.out);
        self.flush();
        self.outcome.timed_out = self.outcome.interrupted.is_none();
        self.outcome.duration = self.started.elapsed();
        self.outcome
    }

    /// Sends what the monitor takes now. It never waits, so signals and deadlines are always looked at.
    fn flush(&mut self) {
        while !self.out.is_empty() && !self.deaf {
            match send(&self.session.socket, &self.out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.deaf = true,
            }
        }
        if self.deaf {
            // The end is told by reading, after whatever the monitor said before.
            self.out.clear();
        }
    }
}

#[derive(Debug)]
enum Ready {
    Socket,
    Room,
    Stdin,
    Signal,
    Late,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::shell_status;
    use super::*;

    fn encoded(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode_into(&mut bytes);
        bytes
    }

    /// A monitor that talks without end and reads nothing: neither holds up a signal or a deadline.
    #[test]
    fn a_monitor_that_only_talks_is_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talker = std::thread::spawn(move || {
            let chatter = encoded(&Frame::control(br#"{"type":"chatter"}"#.to_vec()));
            while theirs.write_all(&chatter).is_ok() {}
        });
        let (signals, signal) = rustix::pipe::pipe().unwrap();
        let endless = std::fs::File::open("/dev/zero").unwrap();
        rustix::io::write(&signal, &[15]).unwrap();
        let io = ExecIo {
            stdin: Some(endless.as_fd()),
            stdout: &mut std::io::sink(),
            stderr: &mut std::io::sink(),
            signals: Some(signals.as_fd()),
        };
        let begin = Instant::now();
        // The limit is not what ends it: that would take longer.
        let outcome = Exec::new(Session::over(ours), io, Some(Duration::from_mins(1))).run(vec![b'x'; 1000]).unwrap();
        assert_eq!((outcome.interrupted, outcome.code, outcome.timed_out), (Some(15), None, false));
        assert!((AFTER_SIGNAL..AFTER_TIMEOUT).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        talker.join().unwrap();
    }

    #[test]
    fn a_monitor_that_takes_no_input_does_not_hold_up_a_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (signals, signal) = rustix::pipe::pipe().unwrap();
        let sends = ours.try_clone().unwrap();
        let later = std::thread::spawn(move || {
            // Nobody reads at the other end: what is full once stays so.
            let (now, until) = (Timespec { tv_sec: 0, tv_nsec: 0 }, Instant::now() + Duration::from_secs(20));
            while poll(&mut [PollFd::new(&sends, PollFlags::OUT)], Some(&now)).unwrap() > 0 {
                assert!(Instant::now() < until, "the monitor's buffers are never full");
                std::thread::yield_now();
            }
            rustix::io::write(&signal, &[15]).unwrap();
            (signal, sends)
        });
        let endless = std::fs::File::open("/dev/zero").unwrap();
        let io = ExecIo {
            stdin: Some(endless.as_fd()),
            stdout: &mut std::io::sink(),
            stderr: &mut std::io::sink(),
            signals: Some(signals.as_fd()),
        };
        let mut exec = Exec::new(Session::over(ours), io, None);
        exec.send.grant(8 << 20).unwrap();
        let begin = Instant::now();
        assert_eq!(exec.run(vec![b'x'; 1000]).unwrap().interrupted, Some(15));
        assert!(begin.elapsed() < AFTER_TIMEOUT, "{:?}", begin.elapsed());
        drop((later.join().unwrap(), theirs));
    }

    /// `timeout` sends its signal to the child and then to the child's group: the command is not killed for that.
    #[test]
    fn a_signal_that_comes_twice_at_once_is_passed_on_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (signals, signal) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&signal, &[15, 15]).unwrap();
        let heard = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut theirs, &mut bytes).unwrap();
            let mut decoder = smolvm_proto::Decoder::new();
            decoder.push(&bytes);
            let mut passed = Vec::new();
            while let Some(frame) = decoder.next_frame().unwrap() {
                if frame.kind == FrameKind::StreamControl {
                    passed.push(decode::<StreamControl>(&frame.payload).unwrap());
                }
            }
            passed
        });
        let io = ExecIo { stdin: None, stdout: &mut std::io::sink(), stderr: &mut std::io::sink(), signals: Some(signals.as_fd()) };
        let outcome = Exec::new(Session::over(ours), io, None).run(b"x".to_vec()).unwrap();
        assert_eq!(outcome.interrupted, Some(15));
        let passed = heard.join().unwrap();
        assert!(matches!(passed[..], [StreamControl::Signal { signal: 15 }]), "{passed:?}");
    }

    fn last_words(frame: &Frame) -> Result<ExecOutcome, Error> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&encoded(frame)).unwrap();
        drop(theirs);
        let io = ExecIo { stdin: None, stdout: &mut std::io::sink(), stderr: &mut std::io::sink(), signals: None };
        Exec::new(Session::over(ours), io, None).run(b"x".to_vec())
    }

    #[test]
    fn what_a_monitor_said_before_it_ended_counts() {
        let exit = |exit: &ExecExit| Frame::on_stream(FrameKind::Exit, STREAM, encode(exit).unwrap());
        let outcome = last_words(&exit(&ExecExit { code: Some(7), ..ExecExit::default() })).unwrap();
        assert_eq!(shell_status(&outcome), Some(7));
        let outcome = last_words(&exit(&ExecExit { signal: Some(i32::MAX), ..ExecExit::default() })).unwrap();
        assert_eq!(shell_status(&outcome), None, "a guest's number that no signal has");
        assert_eq!(last_words(&Frame::reset(STREAM)).unwrap_err().code, ErrorCode::GuestError);
        let reply = MonitorReply::Error { code: MonitorErrorCode::GuestNotReady, message: "the guest is not ready".to_owned() };
        let refused = last_words(&Frame::control(encode(&reply).unwrap())).unwrap_err();
        assert_eq!((refused.code, refused.recovery.as_deref()), (ErrorCode::InvalidState, Some("smolvm inspect NAME")));
    }

    #[test]
    fn a_guest_that_never_answers_is_a_timeout() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let io = ExecIo { stdin: None, stdout: &mut std::io::sink(), stderr: &mut std::io::sink(), signals: None };
        let mut exec = Exec::new(Session::over(ours), io, Some(Duration::ZERO));
        exec.give_up = Some(Instant::now() + Duration::from_millis(50));
        let outcome = exec.run(b"x".to_vec()).unwrap();
        assert_eq!((outcome.timed_out, outcome.code, outcome.signal), (true, None, None));
    }
}
