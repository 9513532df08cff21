//! A host side small enough to trust: one agent process, one socket, frames in and out.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use smolvm_proto::*;

/// No step of a test takes longer on the slowest machine; passing it is a failure, not a wait.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The agent on a plain host, attached and booted.
pub struct Agent {
    child: Child,
    pub line: UnixStream,
    decoder: Decoder,
    unsent: Vec<u8>,
    pub streams: BTreeMap<u32, Stream>,
    pub said: Vec<AgentMessage>,
    next: u32,
}

/// How the test treats a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pace {
    /// Credit at once, stdin whole and closed.
    #[default]
    Eager,
    /// No credit but by [`Agent::grant`], and stdin stays open.
    Manual,
}

/// What a stream has brought so far.
#[derive(Debug, Default)]
pub struct Stream {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub eofs: Vec<Channel>,
    pub exit: Option<ExecExit>,
    pub reset: bool,
    pub stdin: Vec<u8>,
    pub stdin_ends: bool,
    pub window: SendWindow,
    /// Bytes that came beyond the first window, less what was granted: never above zero.
    pub over: [i64; 2],
    pub pace: Pace,
}

impl Agent {
    pub fn start() -> Self {
        let mut agent = Self::start_unattached();
        agent.attach(1);
        agent.boot();
        agent
    }

    #[allow(clippy::disallowed_methods, reason = "the program under test, started by its own test")]
    pub fn start_unattached() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_smolvm-agent")).arg("--serve-stdin").stdin(OwnedFd::from(theirs)).spawn().unwrap();
        ours.set_nonblocking(true).unwrap();
        Self { child, line: ours, decoder: Decoder::new(), unsent: Vec::new(), streams: BTreeMap::new(), said: Vec::new(), next: 1 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a request and skips everything before its reply.
    pub fn attach(&mut self, nonce: u8) {
        let request = AttachRequest::new(Nonce([nonce; 16]));
        self.send_raw(&request.to_bytes_after_flush());
        let mut scanner = ReplyScanner::new(request.nonce);
        let start = Instant::now();
        self.decoder.clear();
        loop {
            assert!(start.elapsed() < DEADLINE, "no reply to the attach");
            let bytes = self.read_some();
            if let Some((reply, rest)) = scanner.push(&bytes) {
                assert_eq!(reply.generation(), Ok(GENERATION));
                self.decoder.push(rest);
                return;
            }
        }
    }

    pub fn boot(&mut self) {
        self.control(&HostMessage::Boot(identity("test")));
        self.until("ready", |a| a.said.iter().any(|m| matches!(m, AgentMessage::Ready(_))));
    }

    pub fn control(&mut self, message: &HostMessage) {
        self.send(&Frame::control(encode(message).unwrap()));
    }

    pub fn send(&mut self, frame: &Frame) {
        frame.encode_into(&mut self.unsent);
        self.turn();
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        let start = Instant::now();
        while !self.unsent.is_empty() {
            assert!(start.elapsed() < DEADLINE, "the agent does not read");
            self.write_some();
        }
    }

    pub fn open(&mut self, request: &ExecRequest, stdin: &[u8]) -> u32 {
        self.open_at(Pace::Eager, request, stdin)
    }

    pub fn open_at(&mut self, pace: Pace, request: &ExecRequest, stdin: &[u8]) -> u32 {
        let id = self.next;
        self.next += 1;
        let stream = Stream {
            stdin: stdin.to_vec(),
            stdin_ends: request.stdin && pace == Pace::Eager,
            over: [-i64::from(INITIAL_WINDOW); 2],
            pace,
            ..Stream::default()
        };
        self.streams.insert(id, stream);
        self.send(&Frame::on_stream(FrameKind::Open, id, encode(request).unwrap()));
        id
    }

    /// Grants more of stdout.
    pub fn grant(&mut self, id: u32, bytes: u32) {
        self.streams.get_mut(&id).unwrap().over[0] -= i64::from(bytes);
        self.send(&Frame::credit(id, Channel::Stdout, bytes));
    }

    /// Runs a command to its end.
    pub fn run(&mut self, request: &ExecRequest, stdin: &[u8]) -> Stream {
        let id = self.open(request, stdin);
        self.wait(id)
    }

    pub fn sh(&mut self, script: &str) -> Stream {
        self.run(&sh(script), b"")
    }

    pub fn wait(&mut self, id: u32) -> Stream {
        self.until("exit", |a| a.streams[&id].exit.is_some() || a.streams[&id].reset);
        self.streams.remove(&id).unwrap()
    }

    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < DEADLINE, "no {what} in time; the agent said {:?}", self.said);
            self.turn();
        }
    }

    /// Sends and receives what can be.
    pub fn turn(&mut self) {
        for (id, stream) in &mut self.streams {
            while !stream.stdin.is_empty() {
                let count = stream.window.take(stream.stdin.len().min(MAX_PAYLOAD));
                if count == 0 {
                    break;
                }
                Frame::data(*id, Channel::Stdin, stream.stdin.drain(..count).collect()).encode_into(&mut self.unsent);
            }
            if stream.stdin.is_empty() && std::mem::take(&mut stream.stdin_ends) {
                Frame::eof(*id, Channel::Stdin).encode_into(&mut self.unsent);
            }
        }
        self.write_some();
        let bytes = self.read_some();
        self.decoder.push(&bytes);
        while let Some(frame) = self.decoder.next_frame().unwrap() {
            self.take(&frame);
        }
    }

    fn take(&mut self, frame: &Frame) {
        if frame.kind == FrameKind::Control {
            self.said.push(decode(&frame.payload).unwrap());
            return;
        }
        let Some(stream) = self.streams.get_mut(&frame.stream) else { return };
        assert!(stream.exit.is_none() && !stream.reset, "{:?} after the end of stream {}", frame.kind, frame.stream);
        let channel = frame.as_ref().channel();
        match frame.kind {
            FrameKind::Data => {
                let channel = channel.unwrap();
                let index = usize::from(channel == Channel::Stderr);
                let len = u32::try_from(frame.payload.len()).unwrap();
                stream.over[index] += i64::from(len);
                assert!(stream.over[index] <= 0, "the agent sent more than was granted");
                if stream.pace == Pace::Eager {
                    stream.over[index] -= i64::from(len);
                    Frame::credit(frame.stream, channel, len).encode_into(&mut self.unsent);
                }
                let bytes = if index == 0 { &mut stream.stdout } else { &mut stream.stderr };
                bytes.extend_from_slice(&frame.payload);
            }
            FrameKind::Eof => stream.eofs.push(channel.unwrap()),
            FrameKind::Credit => stream.window.grant(frame.as_ref().granted().unwrap()).unwrap(),
            FrameKind::Exit => stream.exit = Some(decode(&frame.payload).unwrap()),
            FrameKind::Reset => stream.reset = true,
            other => panic!("an agent does not send {other:?}"),
        }
    }

    fn write_some(&mut self) {
        match self.line.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("the agent's line: {e}"),
        }
    }

    fn read_some(&mut self) -> Vec<u8> {
        let mut fds = [rustix::event::PollFd::new(&self.line, rustix::event::PollFlags::IN)];
        let tick = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        rustix::event::poll(&mut fds, Some(&tick)).unwrap();
        let mut bytes = vec![0; 256 * 1024];
        match self.line.read(&mut bytes) {
            Ok(0) => panic!("the agent closed its line"),
            Ok(count) => bytes.truncate(count),
            Err(e) if e.kind() == ErrorKind::WouldBlock => bytes.clear(),
            Err(e) => panic!("the agent's line: {e}"),
        }
        bytes
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Closing the line ends the agent and kills its commands; the kill is for an agent that does not.
        let _ = self.line.shutdown(std::net::Shutdown::Both);
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(5) {
                let _ = self.child.kill();
                let _ = self.child.wait();
                assert!(std::thread::panicking(), "the agent did not end with its line");
                return;
            }
            std::thread::yield_now();
        }
    }
}

pub fn identity(hostname: &str) -> BootConfig {
    BootConfig {
        hostname: hostname.to_owned(),
        machine_id: "0".repeat(32),
        time: UnixTime { secs: 1, nanos: 2 },
        entropy: Entropy::new(vec![0; 32]).unwrap(),
        network: None,
        data_disk: false,
        init: None,
    }
}

pub fn command(argv: &[&str]) -> ExecRequest {
    ExecRequest { argv: argv.iter().map(ToString::to_string).collect(), ..ExecRequest::default() }
}

pub fn sh(script: &str) -> ExecRequest {
    command(&["sh", "-c", script])
}

impl Stream {
    pub fn code(&self) -> Option<i32> {
        self.exit.as_ref().and_then(|e| e.code)
    }

    pub fn error(&self) -> Option<ExecErrorKind> {
        self.exit.as_ref().and_then(|e| e.error.as_ref()).map(|e| e.kind)
    }

    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}
