//! A client's connection to a sandbox's monitor.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use smolvm_host::random;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_proto::{AttachRequest, Decoder, Frame, FrameKind, MonitorReply, MonitorRequest, Nonce, ReplyScanner, decode, encode};

use crate::error::{Error, io_code};
use crate::installation::Smolvm;
use crate::paths::SOCKET;

/// A monitor is a local process in a poll loop: it answers at once or is wedged.
const ATTACH_WAIT: Duration = Duration::from_secs(5);

/// An attached connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) socket: UnixStream,
    decoder: Decoder,
}

impl Session {
    /// Connects and shakes hands.
    pub(crate) fn connect(vm: &Smolvm, id: &SandboxId) -> Result<Self, Error> {
        let dead = |e: std::io::Error| {
            Error::new(unanswered(&e), format!("the monitor of \"{id}\" does not answer"))
                .hint(format!("smolvm inspect {id}; smolvm stop {id}"))
                .because(e)
        };
        let dir = openat(CWD, vm.paths().run_dir(id), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| dead(e.into()))?;
        let socket = UnixStream::connect(socket_path(&dir)).map_err(dead)?;
        let mut session = Self { socket, decoder: Decoder::new() };
        session.attach().map_err(dead)?.map_err(|e| {
            Error::new(
                ErrorCode::Unsupported,
                format!("the monitor of \"{id}\" was started by another version of smolvm and speaks another protocol"),
            )
            .hint(format!("stop it with the version that started it, or take it down: smolvm delete {id}"))
            .because(e)
        })?;
        Ok(session)
    }

    /// A connection that is attached already.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::new() }
    }

    fn attach(&mut self) -> std::io::Result<Result<u16, smolvm_proto::AttachError>> {
        let nonce = Nonce(random::bytes()?);
        let until = Instant::now() + ATTACH_WAIT;
        self.socket.write_all(&AttachRequest::new(nonce).to_bytes())?;
        let mut scanner = ReplyScanner::new(nonce);
        let mut chunk = [0; 4096];
        loop {
            // A duration of zero would mean for ever.
            self.socket.set_read_timeout(Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))))?;
            let count = match self.socket.read(&mut chunk) {
                // A signal is for the command: it is passed on once there is one.
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted && Instant::now() < until => continue,
                other => other?,
            };
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((reply, rest)) = scanner.push(&chunk[..count]) {
                self.decoder.push(rest);
                self.socket.set_read_timeout(None)?;
                return Ok(reply.generation());
            }
        }
    }

    /// Sends a request to the monitor itself.
    pub(crate) fn send_request(&mut self, request: &MonitorRequest) -> Result<(), Error> {
        let payload = encode(request).map_err(|e| Error::new(ErrorCode::Internal, "a request cannot be encoded").because(e))?;
        let mut bytes = Vec::new();
        Frame::control(payload).encode_into(&mut bytes);
        self.socket.write_all(&bytes).map_err(lost)
    }

    /// The monitor's next answer, until `deadline`.
    pub(crate) fn wait_reply(&mut self, deadline: Instant) -> Result<MonitorReply, Error> {
        loop {
            while let Some(frame) = self.next_frame()? {
                if frame.kind == FrameKind::Control {
                    return decode(&frame.payload)
                        .map_err(|e| Error::new(ErrorCode::Internal, "the monitor sent something odd").because(e));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !readable(&self.socket, left)? {
                return Err(Error::new(ErrorCode::Timeout, "the monitor did not answer in time"));
            }
            self.fill()?;
        }
    }

    /// A complete frame that was read already.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        self.decoder.next_frame().map_err(|e| Error::new(ErrorCode::Internal, "the monitor broke the protocol").because(e))
    }

    /// Reads once; the socket must be readable.
    pub(crate) fn fill(&mut self) -> Result<(), Error> {
        let mut chunk = [0; 16 << 10];
        let count = self.socket.read(&mut chunk).map_err(lost)?;
        if count == 0 {
            return Err(Error::new(ErrorCode::GuestError, "the sandbox ended").hint("smolvm list; smolvm logs NAME"));
        }
        self.decoder.push(&chunk[..count]);
        Ok(())
    }
}

/// A path to the socket that is short however deep the state directory lies: `sun_path` has 108 bytes.
pub(crate) fn socket_path(run_dir: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", run_dir.as_raw_fd()))
}

fn readable(socket: &UnixStream, wait: Duration) -> Result<bool, Error> {
    let timeout = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
    match poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)) {
        Ok(n) => Ok(n > 0),
        Err(Errno::INTR) => Ok(true),
        Err(e) => Err(lost(e.into())),
    }
}

/// A monitor that ended since it was looked for, or ends right now, took its sandbox with it: nothing unforeseen.
fn unanswered(e: &std::io::Error) -> ErrorCode {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound | K::ConnectionRefused | K::ConnectionReset | K::BrokenPipe | K::UnexpectedEof => ErrorCode::GuestError,
        // What the kernel says when the time for an answer is over.
        K::WouldBlock => ErrorCode::Timeout,
        _ => io_code(e),
    }
}

fn lost(e: std::io::Error) -> Error {
    Error::new(ErrorCode::GuestError, "the connection to the sandbox was lost").hint("smolvm list; smolvm logs NAME").because(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::Settings;
    use crate::paths::Paths;
    use std::os::unix::net::UnixListener;

    /// A monitor may end between the look that found it alive and the connection.
    #[test]
    fn a_monitor_that_has_ended_is_no_defect() {
        let dir = tempfile::tempdir().unwrap();
        let vm = Smolvm::open(Settings::new(Paths::beneath(dir.path()))).unwrap();
        let id: SandboxId = "vm-a".parse().unwrap();
        let code = || Session::connect(&vm, &id).unwrap_err().code;
        assert_eq!(code(), ErrorCode::GuestError, "its run directory is gone");
        let run = vm.paths().run_dir(&id);
        std::fs::create_dir_all(&run).unwrap();
        assert_eq!(code(), ErrorCode::GuestError, "its socket is gone");
        let listener = UnixListener::bind(run.join(SOCKET)).unwrap();
        let ends = std::thread::spawn(move || drop(listener.accept().unwrap()));
        assert_eq!(code(), ErrorCode::GuestError, "it ends before it answers");
        ends.join().unwrap();
        assert_eq!(code(), ErrorCode::GuestError, "nobody listens any more");
    }

    #[test]
    fn a_monitor_that_says_other_things_does_not_move_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let talker = std::thread::spawn(move || {
            let mut chatter = Vec::new();
            Frame::data(1, smolvm_proto::Channel::Stdout, b"chatter".to_vec()).encode_into(&mut chatter);
            while theirs.write_all(&chatter).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let begin = Instant::now();
        let mut session = Session::over(ours);
        let error = session.wait_reply(begin + Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(begin.elapsed() < Duration::from_secs(5));
        drop(session);
        talker.join().unwrap();
    }
}
