//! The monitor's loop: everything it waits for, and what it does about it.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use smolvm_host::effect::perform;
use smolvm_host::engine::qmp::QmpStream;
use smolvm_host::proc::kill;
use smolvm_model::effect::Effect;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::name::SandboxId;
use smolvm_proto::{AgentMessage, Frame, FrameKind, Nonce, decode};

use super::client::{Client, Heard};
use super::config::{MonitorConfig, MonitorMemory};
use super::copy::Copying;
use super::disk::Disk;
use super::exit::Evidence;
use super::guest::{Guest, Loss};
use super::log::{CappedLog, drain};
use super::network::Service;
use super::pause::Motion;
use super::ready::Phase;
use super::relay::{ClientId, Relay};
use super::report::Reporter;
use super::run::random_bytes;
use super::stop::AFTER_HALT;
use super::vmm::Vmm;
use crate::error::Error;
use crate::installation::Smolvm;
use crate::start::Steps;

/// Local clients at once.
const MAX_CLIENTS: usize = 256;
/// What a launch left to the loop.
pub(super) struct Parts {
    pub(super) steps: Steps,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) qmp: UnixStream,
    pub(super) qmp_stream: QmpStream,
    pub(super) agent: UnixStream,
    pub(super) console: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) enforced: serde_json::Value,
    pub(super) listener: UnixListener,
    pub(super) network: Option<Service>,
    pub(super) layers: Vec<u32>,
    pub(super) console_log: PathBuf,
    pub(super) hypervisor_log: PathBuf,
}

pub(super) struct Loop<'a> {
    /// Where the time of the start went.
    pub(super) steps: Steps,
    pub(super) config: &'a MonitorConfig,
    pub(super) vm: &'a Smolvm,
    pub(super) id: &'a SandboxId,
    pub(super) reporter: &'a mut Reporter,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) vmm: Vmm,
    pub(super) guest: Guest,
    pub(super) console: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    pub(super) console_log: CappedLog,
    pub(super) hypervisor_log: CappedLog,
    pub(super) enforced: serde_json::Value,
    pub(super) listener: Option<UnixListener>,
    pub(super) clients: Vec<Client>,
    last_client: ClientId,
    pub(super) relay: Relay,
    pub(super) agent_version: Option<String>,
    /// The guest was told who it is.
    pub(super) told: bool,
    pub(super) phase: Phase,
    pub(super) motion: Motion,
    /// Whether a guest that stands still came to rest before.
    pub(super) quiet: bool,
    /// How often it was told to.
    pub(super) freezes: u64,
    /// What its data disk consists of.
    pub(super) disk: Disk,
    /// Who copies it.
    pub(super) copying: Option<Copying>,
    /// Who wants to hear that the guest halted, or goes on.
    pub(super) movers: Vec<ClientId>,
    /// Who wants it halted as soon as it has gone on.
    pub(super) pausers: Vec<ClientId>,
    pub(super) evidence: Evidence,
    /// When the hypervisor is killed if it has not ended by itself.
    pub(super) kill_at: Option<Instant>,
    /// Who wants to hear that it has ended.
    pub(super) stoppers: Vec<ClientId>,
    network: Option<Service>,
    /// The hypervisor was told to end.
    pub(super) quitting: bool,
}

/// What a descriptor of the set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pidfd,
    Qmp,
    Agent,
    Console,
    Stderr,
    Listener,
    Client(ClientId),
    Network,
}

impl<'a> Loop<'a> {
    pub(super) fn new(
        config: &'a MonitorConfig,
        vm: &'a Smolvm,
        id: &'a SandboxId,
        parts: Parts,
        reporter: &'a mut Reporter,
    ) -> Result<Self, Error> {
        Ok(Self {
            steps: parts.steps,
            config,
            vm,
            id,
            reporter,
            pid: parts.pid,
            pidfd: parts.pidfd,
            vmm: Vmm::new(parts.qmp, parts.qmp_stream),
            guest: Guest::new(parts.agent, Nonce(random_bytes()?)),
            console: Some(parts.console),
            stderr: Some(parts.stderr),
            console_log: CappedLog::open(&parts.console_log),
            hypervisor_log: CappedLog::open(&parts.hypervisor_log),
            enforced: parts.enforced,
            listener: Some(parts.listener),
            clients: Vec::new(),
            last_client: 0,
            relay: Relay::default(),
            agent_version: None,
            told: false,
            motion: Motion::default(),
            quiet: false,
            freezes: 0,
            disk: Disk::of(&parts.layers),
            copying: None,
            movers: Vec::new(),
            pausers: Vec::new(),
            phase: Phase::Booting { ready: None, corrections: 0 },
            evidence: Evidence::default(),
            kill_at: None,
            stoppers: Vec::new(),
            network: parts.network,
            quitting: false,
        })
    }

    /// Serves until the hypervisor has ended, then writes down how.
    pub(super) fn run(mut self) -> Result<(), Error> {
        self.tell_early()?;
        self.begin();
        loop {
            self.flush();
            for source in self.wait()? {
                match source {
                    Source::Pidfd => return self.ended(),
                    Source::Qmp => self.hear_vmm(),
                    Source::Agent => self.hear_guest()?,
                    Source::Console => drain(&mut self.console, &mut self.console_log),
                    Source::Stderr => drain(&mut self.stderr, &mut self.hypervisor_log),
                    Source::Listener => self.accept(),
                    Source::Client(id) => self.hear_client(id),
                    // Served below, after every wait.
                    Source::Network => {}
                }
            }
            if let Some(network) = &mut self.network {
                network.serve();
            }
            self.notice_lost_link();
            self.drop_who_does_not_greet();
            self.look_at_the_time();
            self.end_overdue_copy();
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                let _ = perform(Effect::EndHypervisors, |_| kill::kill(&self.pidfd));
            }
        }
    }

    /// Hears what the hypervisor has told already. A guest that boots runs since that has answered; one that goes on from a memory is told to run.
    fn begin(&mut self) {
        match self.config.memory {
            MonitorMemory::Boot | MonitorMemory::Park { .. } => self.take_back_descriptors(),
            MonitorMemory::Fork | MonitorMemory::Restore { .. } => {}
        }
        for news in self.vmm.told_before() {
            self.heard_of_vmm(news);
        }
    }

    fn wait(&self) -> Result<Vec<Source>, Error> {
        let out = |waiting: bool| if waiting { PollFlags::OUT } else { PollFlags::empty() };
        let mut set: Vec<(Source, PollFd<'_>)> = vec![(Source::Pidfd, PollFd::new(&self.pidfd, PollFlags::IN))];
        if let Some(listener) = &self.listener {
            set.push((Source::Listener, PollFd::new(listener, PollFlags::IN)));
        }
        if self.vmm.is_open() {
            set.push((Source::Qmp, PollFd::new(&self.vmm.socket, PollFlags::IN | out(!self.vmm.out.is_empty()))));
        }
        if !self.guest.is_closed() {
            set.push((Source::Agent, PollFd::new(&self.guest.socket, PollFlags::IN | out(!self.guest.out.is_empty()))));
        }
        for (source, fd) in [(Source::Console, &self.console), (Source::Stderr, &self.stderr)] {
            if let Some(fd) = fd {
                set.push((source, PollFd::new(fd, PollFlags::IN)));
            }
        }
        for client in &self.clients {
            // With much waiting for the guest, whoever feeds it is left unread: the pressure reaches it through
            // its socket. A client without streams, which may want to stop the sandbox, is always heard.
            let held_back = self.guest.is_full() && self.relay.has_streams(client.id);
            let hear = if held_back { PollFlags::empty() } else { PollFlags::IN };
            set.push((Source::Client(client.id), PollFd::new(&client.socket, hear | out(!client.out.is_empty()))));
        }
        if let Some(network) = &self.network {
            set.extend(network.poll_fds().into_iter().map(|fd| (Source::Network, fd)));
        }
        let (kinds, mut polled): (Vec<Source>, Vec<PollFd<'_>>) = set.into_iter().unzip();
        let greeting = self.clients.iter().filter_map(Client::greeting_until).min();
        let network = self.network.as_ref().and_then(Service::deadline);
        let deadlines = [self.kill_at, greeting, network, self.motion_deadline(), self.copy_deadline()];
        let deadline = deadlines.into_iter().flatten().min();
        let timeout = deadline.and_then(|at| Timespec::try_from(at.saturating_duration_since(Instant::now())).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::new(ErrorCode::Internal, "the monitor cannot wait").because(e)),
        }
        let mut ready: Vec<Source> =
            kinds.into_iter().zip(&polled).filter(|(_, fd)| !fd.revents().is_empty()).map(|(kind, _)| kind).collect();
        ready.dedup();
        // What the hypervisor said last is read before its end is judged.
        ready.sort_by_key(|s| *s == Source::Pidfd);
        Ok(ready)
    }

    pub(super) fn flush(&mut self) {
        let _ = self.vmm.out.flush(&self.vmm.socket);
        let _ = self.guest.out.flush(&self.guest.socket);
        let gone: Vec<ClientId> = self.clients.iter_mut().filter_map(|c| if c.flush() { None } else { Some(c.id) }).collect();
        for id in gone {
            self.drop_client(id);
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Ok((socket, _)) = listener.accept() {
            if self.clients.len() < MAX_CLIENTS && socket.set_nonblocking(true).is_ok() {
                self.last_client += 1;
                self.clients.push(Client::new(self.last_client, socket));
            }
        }
    }

    fn drop_who_does_not_greet(&mut self) {
        let now = Instant::now();
        // It has no streams: those come after the greeting.
        self.clients.retain(|c| c.greeting_until().is_none_or(|until| now < until));
    }

    fn hear_client(&mut self, id: ClientId) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else { return };
        match client.read() {
            Heard::Gone => self.drop_client(id),
            Heard::Frames(frames) => {
                for frame in frames {
                    self.client_sent(id, frame);
                }
            }
        }
    }

    pub(super) fn drop_client(&mut self, id: ClientId) {
        self.clients.retain(|c| c.id != id);
        for stream in self.relay.drop_client(id) {
            self.guest.queue(&Frame::reset(stream));
        }
        self.forget_copy_of(id);
    }

    pub(super) fn hear_vmm(&mut self) {
        for news in self.vmm.read() {
            self.heard_of_vmm(news);
        }
    }

    fn hear_guest(&mut self) -> Result<(), Error> {
        let frames = match self.guest.read() {
            Ok(frames) => frames,
            Err(e) if self.phase == Phase::Running => {
                self.hypervisor_log.append(format!("smolvm: {e}\n").as_bytes());
                return Ok(());
            }
            Err(e) => {
                return Err(Error::new(ErrorCode::GuestError, "the guest cannot be talked to")
                    .hint("rebuild its initramfs: smolvm setup")
                    .because(e));
            }
        };
        for frame in frames {
            match frame.kind {
                FrameKind::Control => {
                    if let Ok(message) = decode::<AgentMessage>(&frame.payload) {
                        self.agent_said(message)?;
                    }
                }
                FrameKind::Open | FrameKind::StreamControl => {}
                FrameKind::Data | FrameKind::Eof | FrameKind::Credit | FrameKind::Exit | FrameKind::Reset => self.deliver(frame),
            }
        }
        Ok(())
    }

    /// Nothing comes any more from a guest whose link was closed, in whatever way: nobody is left waiting for it. The machine
    /// is stopped by whoever wants to.
    fn notice_lost_link(&mut self) {
        match self.guest.take_loss() {
            None => return,
            // Why was said, or its end is heard of next.
            Some(Loss::Ended) => {}
            Some(Loss::GivenUp) => self.hypervisor_log.append(b"smolvm: the guest takes nothing of what it is told\n"),
        }
        for (id, stream) in self.relay.drain() {
            self.stream_ends(id);
            self.answer(id, &Frame::reset(stream));
        }
        if self.evidence.stop_requested {
            self.quit();
        }
    }

    pub(super) fn deliver(&mut self, frame: Frame) {
        let Some((id, stream)) = self.relay.client_stream(frame.stream) else { return };
        let ends = matches!(frame.kind, FrameKind::Exit | FrameKind::Reset);
        if ends {
            self.relay.close(frame.stream);
            self.stream_ends(id);
        }
        self.answer(id, &Frame { stream, ..frame });
    }

    fn stream_ends(&mut self, id: ClientId) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == id) {
            client.stream_ends();
        }
    }

    fn agent_said(&mut self, message: AgentMessage) -> Result<(), Error> {
        match message {
            // Once: each answer is a seed and a kilobyte for a guest that may ask for ever.
            AgentMessage::Hello { agent_version, .. } if self.agent_version.is_none() => {
                self.agent_version = Some(agent_version.chars().take(64).collect());
                self.tell_who_it_is()?;
            }
            AgentMessage::Ready(ready) => self.is_ready(ready)?,
            AgentMessage::Clock { time } => self.heard_of_clock(time)?,
            AgentMessage::Parked => self.park()?,
            AgentMessage::Frozen { seq } => self.has_settled(seq),
            AgentMessage::Failed { step, message } if self.phase != Phase::Running => {
                let text: String =
                    format!("the guest failed to boot at {step}: {message}").chars().filter(|c| !c.is_control()).take(500).collect();
                return Err(Error::new(ErrorCode::GuestError, text).hint(format!("smolvm logs {}", self.id)));
            }
            AgentMessage::Halted if !self.evidence.halted => {
                self.evidence.halted = true;
                if self.evidence.stop_requested {
                    self.quit();
                } else {
                    self.kill_within(AFTER_HALT);
                }
            }
            AgentMessage::Hello { .. }
            | AgentMessage::Failed { .. }
            | AgentMessage::Halted
            | AgentMessage::Pong { .. }
            | AgentMessage::Unknown => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
