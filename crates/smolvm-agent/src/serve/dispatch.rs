//! What each frame from the host means.
//!
//! A host side that breaks a rule on a stream gets `Reset` on that stream and its command is
//! killed; frames for streams that are over are ignored, because they may have crossed the `Exit`.

use std::time::{Duration, Instant};

use rustix::process::WaitOptions;
use smolvm_proto::{
    AgentMessage, AttachRequest, BootConfig, Channel, ExecErrorKind, ExecExit, ExecRequest, Frame, FrameKind, FrameRef, HostMessage,
    StreamControl, decode,
};

use super::Server;
use super::init::Init;
use super::link::Incoming;

/// How long one rehearsed command may take: python needs half a second when it is translated.
const REHEARSAL: Duration = Duration::from_secs(10);

/// How long one that was killed is waited for.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Most streams at a time: descriptors and memory are finite, and so is a host's honest need.
const MOST_STREAMS: usize = 256;

/// What a frame asks for, freed from the buffer it came in.
enum Request {
    Attach(AttachRequest),
    Host(HostMessage),
    Open {
        stream: u32,
        request: Box<Result<ExecRequest, String>>,
    },
    /// The stream broke a rule, or the host gave it up.
    Abort {
        stream: u32,
        tell: bool,
    },
    Answer {
        stream: u32,
        frame: Frame,
    },
    Nothing,
}

impl Server<'_> {
    /// Deals with everything that came in.
    pub(super) fn dispatch(&mut self) {
        while self.link.outbox.takes_answers() {
            let Some(incoming) = self.link.next() else { return };
            let request = match incoming {
                Incoming::Attach(request) => Request::Attach(request),
                Incoming::Frame(frame) => read(frame, &mut self.execs),
            };
            self.perform(request);
        }
    }

    fn perform(&mut self, request: Request) {
        match request {
            Request::Attach(request) => self.attach(&request),
            Request::Host(HostMessage::Boot(config)) => self.boot(&config),
            Request::Host(HostMessage::Park { network, fresh_disk, rehearse }) => self.park(network, fresh_disk, &rehearse),
            Request::Host(HostMessage::Freeze { sync, seq }) => self.freeze(sync, seq),
            Request::Host(HostMessage::Restore(config)) => self.restore(&config),
            Request::Host(HostMessage::Clock { time }) => self.set_clock(time),
            Request::Host(HostMessage::Ping { seq }) => self.say(&AgentMessage::Pong { seq }),
            Request::Host(HostMessage::Shutdown { grace_ms }) => {
                let act = self.phase.ask(Duration::from_millis(grace_ms), Instant::now());
                self.act(act);
            }
            Request::Open { stream, request } => self.open(stream, *request),
            Request::Abort { stream, tell } => self.abort(stream, tell),
            Request::Answer { stream, frame } => {
                debug_assert_eq!(stream, frame.stream, "an answer stays on its stream");
                self.link.outbox.push(frame.as_ref());
            }
            Request::Host(HostMessage::Unknown) | Request::Nothing => {}
        }
    }

    fn attach(&mut self, request: &AttachRequest) {
        self.forget_to_rest();
        self.drop_streams();
        let reply = request.answer();
        self.link.outbox.push_raw(&reply.to_bytes());
        if let Ok(generation) = reply.generation() {
            let agent_version = env!("CARGO_PKG_VERSION").to_owned();
            self.say(&AgentMessage::Hello { agent_version, generation, booted: self.has_booted() });
        }
    }

    fn boot(&mut self, config: &BootConfig) {
        if self.boot.is_none() {
            let outcome = self.guest.boot(config).and_then(|ready| {
                if let Some(init) = config.init {
                    self.init = Some(Init::start(init, self.guest, &mut self.starter)?);
                }
                Ok(ready)
            });
            if let Err(failure) = &outcome {
                crate::log::line(failure);
            }
            self.boot = Some(outcome);
            self.starter.begin_anew();
        }
        // A second try would start from a half-made guest, so the first answer stands.
        let answer = match &self.boot {
            Some(Ok(ready)) => AgentMessage::Ready(ready.clone()),
            Some(Err(failure)) => AgentMessage::Failed { step: failure.step.to_owned(), message: failure.message.clone() },
            None => return,
        };
        self.say(&answer);
    }

    /// Only a guest that is nobody yet can become the template of many.
    fn park(&mut self, network: bool, fresh_disk: bool, commands: &[Vec<String>]) {
        if self.boot.is_some() {
            return;
        }
        self.work_ahead();
        let answer = match self.guest.park(network, fresh_disk) {
            Ok(()) => {
                if fresh_disk {
                    self.rehearse(commands);
                }
                self.starter.get_ready();
                self.guest.parked();
                AgentMessage::Parked
            }
            Err(failure) => AgentMessage::Failed { step: failure.step.to_owned(), message: failure.message },
        };
        self.say(&answer);
    }

    /// Runs commands as forks will run theirs, so that what they read is in memory. How they end is nobody's business.
    fn rehearse(&mut self, commands: &[Vec<String>]) {
        self.warm = true;
        let plain = [vec!["true".to_owned()]];
        for argv in plain.iter().chain(commands) {
            let Some(child) = self.starter.rehearse(argv) else { continue };
            let until = Instant::now() + REHEARSAL;
            // It is this one that is waited for, and there is nobody else.
            while let Ok(None) = rustix::process::waitpid(Some(child), WaitOptions::NOHANG) {
                if Instant::now() > until {
                    crate::sys::kill::group(child, libc::SIGKILL);
                }
                // Not even that ends one that waits for a disk: then it is reaped like any orphan.
                if Instant::now() > until + LAST_BREATH {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.reap();
    }

    pub(super) fn has_booted(&self) -> bool {
        matches!(self.boot, Some(Ok(_)))
    }

    fn open(&mut self, stream: u32, request: Result<ExecRequest, String>) {
        if self.execs.iter().any(|e| e.stream == stream) {
            return self.abort(stream, true);
        }
        let refuse = |why: &str| Err(ExecExit::failed(ExecErrorKind::SpawnFailed, why));
        let started = if !self.has_booted() {
            refuse("the guest has not booted")
        } else if self.phase.has_begun() {
            refuse("the guest is shutting down")
        } else if self.execs.len() >= MOST_STREAMS {
            refuse("too many commands are running")
        } else {
            request
                .map_err(|message| ExecExit::failed(ExecErrorKind::BadRequest, message))
                .and_then(|request| self.starter.start(stream, &request, Instant::now()))
        };
        match started {
            Ok(exec) => self.execs.push(exec),
            Err(exit) => self.answer(FrameKind::Exit, stream, &exit),
        }
    }

    fn abort(&mut self, stream: u32, tell: bool) {
        if let Some(index) = self.execs.iter().position(|e| e.stream == stream) {
            let exec = self.execs.swap_remove(index);
            exec.signal(libc::SIGKILL);
            self.leftovers.extend(exec.into_leftovers());
        }
        if tell {
            self.link.outbox.push(Frame::reset(stream).as_ref());
        }
    }
}

/// Takes a frame apart; bytes for a command go straight to it.
fn read(frame: FrameRef<'_>, execs: &mut [super::Exec]) -> Request {
    let stream = frame.stream;
    match frame.kind {
        FrameKind::Control => return decode(frame.payload).map_or(Request::Nothing, Request::Host),
        FrameKind::Open => {
            let request = decode::<ExecRequest>(frame.payload).map_err(|e| match std::error::Error::source(&e) {
                Some(source) => format!("{e}: {source}"),
                None => e.to_string(),
            });
            return Request::Open { stream, request: Box::new(request) };
        }
        FrameKind::Data | FrameKind::Eof | FrameKind::Credit | FrameKind::StreamControl | FrameKind::Exit | FrameKind::Reset => {}
    }
    let Some(exec) = execs.iter_mut().find(|e| e.stream == stream) else { return Request::Nothing };
    let broken = Request::Abort { stream, tell: true };
    match (frame.kind, frame.channel()) {
        (FrameKind::Data, Some(Channel::Stdin)) => match exec.input.receive(frame.payload) {
            Ok(Some(grant)) => Request::Answer { stream, frame: Frame::credit(stream, Channel::Stdin, grant) },
            Ok(None) => Request::Nothing,
            Err(_) => broken,
        },
        (FrameKind::Eof, Some(Channel::Stdin)) => {
            exec.input.end();
            Request::Nothing
        }
        (FrameKind::Credit, Some(channel @ (Channel::Stdout | Channel::Stderr))) => {
            let output = &mut exec.outputs[usize::from(channel == Channel::Stderr)];
            match frame.granted().map(|bytes| output.grant(bytes)) {
                Some(Ok(())) => Request::Nothing,
                _ => broken,
            }
        }
        (FrameKind::StreamControl, _) => {
            if let Ok(StreamControl::Signal { signal }) = decode(frame.payload)
                && crate::sys::kill::is_signal(signal)
            {
                exec.signal(signal);
            }
            Request::Nothing
        }
        (FrameKind::Reset, _) => Request::Abort { stream, tell: false },
        _ => broken,
    }
}
