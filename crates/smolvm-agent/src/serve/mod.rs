//! The agent at work: one thread, one poll, one line.
//!
//! ```text
//!   poll ─┬─ signals ──► Exec::end, reaped later     poweroff ──► Phase::ask
//!         ├─ link ─────► frames ─► Boot, Open, Data, Credit, …
//!         ├─ pipes ────► Input::pump, Output::pump ──► Outbox ──► link
//!         └─ time ─────► deadlines, grace, shutdown
//! ```
//!
//! Invariants: nothing here blocks but poll (and the boot and the last sync, when nothing else is
//! to be done, and the sync before the guest is put to rest, for which the host waits); what is polled is exactly what can make progress now, so a slow host costs nothing
//! but its own patience; no descriptor survives into a command.

mod dispatch;
mod exec;
mod guest;
mod init;
mod input;
mod leftovers;
mod link;
mod outbox;
mod output;
mod rest;
mod shutdown;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use smolvm_proto::{AgentMessage, Frame, FrameKind, Ready, encode};

use exec::{Exec, Starter};
pub(crate) use guest::{BootFailure, Bystander, Guest, Rest};
use init::Init;
use leftovers::Leftovers;
use link::Link;
use rest::Motion;
use shutdown::{Act, OWN_GRACE, Phase};

/// How often a port without a host is looked at: it is always "ready", so it cannot be polled.
const HANG_UP_CHECK: Duration = Duration::from_millis(50);

/// How long a command that closes its pipes may take to end before its `Eof`s go out alone.
const ENDING: Duration = Duration::from_millis(3);

/// How long `halted` may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Everything the loop holds.
pub(crate) struct Server<'a> {
    guest: &'a mut dyn Guest,
    link: Link,
    signals: OwnedFd,
    starter: Starter,
    execs: Vec<Exec>,
    leftovers: Leftovers,
    /// Whether somebody ended who was not reaped yet.
    unreaped: bool,
    phase: Phase,
    /// The image's own init, if it was asked for.
    init: Option<Init>,
    /// Whether the guest has done what it can do before it is told who it is.
    prepared: bool,
    /// Whether the way of a command was gone once.
    warm: bool,
    /// Whether the guest is at rest, to be copied: nothing is sent until it is told which of them it is.
    motion: Motion,
    /// How the boot went; it is tried once.
    boot: Option<Result<Ready, BootFailure>>,
    /// Who gets to fill the outbox first; goes round, so that one flood does not silence the rest.
    turn: usize,
}

/// Serves until the guest powers off or, where that ends it, the host goes.
pub(crate) fn serve(line: OwnedFd, signals: OwnedFd, guest: &mut dyn Guest) -> Result<(), Errno> {
    let mut server = Server::new(line, signals, guest)?;
    while server.round()? {}
    Ok(())
}

impl<'a> Server<'a> {
    fn new(line: OwnedFd, signals: OwnedFd, guest: &'a mut dyn Guest) -> Result<Self, Errno> {
        let starter = Starter::new()?;
        Ok(Self {
            guest,
            link: Link::new(line),
            signals,
            starter,
            execs: Vec::new(),
            leftovers: Leftovers::new(),
            unreaped: false,
            phase: Phase::Running,
            init: None,
            prepared: false,
            warm: false,
            motion: Motion::Running,
            boot: None,
            turn: 0,
        })
    }
}

impl Server<'_> {
    /// Waits for something and deals with it. False when all is over.
    fn round(&mut self) -> Result<bool, Errno> {
        let woken = self.wait()?;
        if woken.link && !self.link.receive()? {
            if !self.guest.outlives_host() {
                self.drop_streams();
                return Ok(false);
            }
            self.link.hang_up();
        }
        self.dispatch();
        self.try_again_to_rest();
        if woken.signals {
            self.take_signals();
        }
        if woken.leftovers {
            self.leftovers.drain();
        }
        if self.is_at_rest() {
            self.link.flush()?;
            return Ok(true);
        }
        let now = Instant::now();
        self.pump(now);
        // Somebody whose pipe was not known to be closed a moment ago.
        if self.unreaped {
            self.note_ends();
        }
        self.await_imminent_ends();
        self.finish(now);
        self.link.flush()?;
        if std::mem::take(&mut self.unreaped) {
            self.reap();
            self.pump(now);
            self.finish(now);
            self.link.flush()?;
        }
        self.work_ahead();
        if self.phase.has_begun() {
            return Ok(!self.shut_down(now));
        }
        Ok(true)
    }

    /// What can be done while the host is busy with what it was just told.
    fn work_ahead(&mut self) {
        if self.link.is_attached() && !std::mem::replace(&mut self.prepared, true) {
            self.guest.prepare();
        }
        if self.has_booted() && self.execs.is_empty() && !std::mem::replace(&mut self.warm, true) {
            self.starter.warm_up();
        }
        if self.has_booted() && self.execs.is_empty() {
            self.starter.get_ready();
        }
    }

    fn wait(&mut self) -> Result<Woken, Errno> {
        let line = self.link_interest();
        // Polled even when nothing is wanted from it it would say "hung up" for ever, so then it is left out.
        let polls_link = !self.link.is_hung_up() && !line.is_empty();
        let takes_data = self.link.outbox.takes_data() && !self.is_at_rest();
        let feeds = !self.is_at_rest();
        let mut fds = Vec::with_capacity(2 + 3 * self.execs.len());
        fds.push(PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN));
        if polls_link {
            fds.push(PollFd::from_borrowed_fd(self.link.as_fd(), line));
        }
        for exec in &self.execs {
            if takes_data {
                fds.extend(exec.outputs.iter().filter_map(output::Output::wants).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            }
            if feeds {
                fds.extend(exec.input.wants().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
            }
        }
        fds.extend(self.leftovers.fds().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = self.timeout();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let mut events = events.into_iter();
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        let signals = !next().is_empty();
        let line = if polls_link { next() } else { PollFlags::empty() };
        // The same order as above, and nothing has changed what anybody wants since.
        for exec in &mut self.execs {
            for output in &mut exec.outputs {
                if takes_data && output.wants().is_some() {
                    output.set_ready(!next().is_empty());
                }
            }
            if feeds && exec.input.wants().is_some() {
                exec.input.set_ready(!next().is_empty());
            }
        }
        let leftovers = events.any(|e| !e.is_empty());
        self.link.look_again();
        // A hang-up is read too: the read gives what came before it, then the end.
        Ok(Woken { signals, link: line.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR), leftovers })
    }

    fn link_interest(&self) -> PollFlags {
        let mut line = PollFlags::empty();
        if self.link.outbox.takes_answers() {
            line |= PollFlags::IN;
        }
        if !self.link.outbox.is_empty() {
            line |= PollFlags::OUT;
        }
        line
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let deadlines = self.execs.iter().filter(|_| !self.is_at_rest()).filter_map(|e| e.wakes_at(now));
        let mut soonest = deadlines.chain(self.phase.wakes_at()).chain(self.motion.wakes_at()).min();
        if self.link.is_hung_up() {
            let check = now + HANG_UP_CHECK;
            soonest = Some(soonest.map_or(check, |at| at.min(check)));
        }
        let left = soonest?.saturating_duration_since(now);
        // Rounded up: waking a moment too early would spin until the moment has passed.
        let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
        Some(Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 })
    }

    fn take_signals(&mut self) {
        while let Some(signal) = crate::sys::signals::next(&self.signals) {
            if signal == libc::SIGCHLD {
                self.unreaped = true;
                self.note_ends();
            } else {
                let act = self.phase.ask(OWN_GRACE, Instant::now());
                self.act(act);
            }
        }
    }

    /// Notes which commands have ended; they are reaped when they have been answered.
    fn note_ends(&mut self) {
        let now = Instant::now();
        self.execs.iter_mut().for_each(|exec| exec.look_whether_ended(now));
    }

    /// Takes every process that has ended, ours and the orphans of others. True: some live on.
    fn reap(&mut self) -> bool {
        let now = Instant::now();
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if self.init.as_mut().is_some_and(|init| init.ends(pid)) {
                        // Everything in its namespace went with it.
                        let _ = self.phase.ask(OWN_GRACE, now);
                    }
                    if let Some(exec) = self.execs.iter_mut().find(|e| e.pid() == pid && !e.has_ended()) {
                        exec.end(status.into(), now);
                    }
                }
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    fn pump(&mut self, now: Instant) {
        let count = self.execs.len();
        for i in 0..count {
            let exec = &mut self.execs[(self.turn + i) % count];
            exec.check_deadline(now);
            if let Some(grant) = exec.input.pump() {
                self.link.outbox.push(Frame::credit(exec.stream, smolvm_proto::Channel::Stdin, grant).as_ref());
            }
            exec.pump(&mut self.link.outbox);
        }
        self.turn = self.turn.wrapping_add(1);
    }

    /// Lets a command that has closed a pipe finish ending, so that its last bytes and its exit leave together.
    ///
    /// The kernel closes the pipes of a process one by one before it is a zombie, and wakes the agent at each.
    /// Going to the host every time would cost more than the moment the process still needs. It gets that moment only
    /// from an agent that sleeps: one that yields is taken first again, having slept so much before.
    fn await_imminent_ends(&mut self) {
        let until = Instant::now() + ENDING;
        while self.execs.iter_mut().any(Exec::may_be_ending) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            fds.extend(self.execs.iter().flat_map(Exec::last_pipes).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let _ = rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            drop(fds);
            self.take_signals();
            for exec in &mut self.execs {
                exec.look_for_the_end(&mut self.link.outbox);
            }
        }
    }

    fn finish(&mut self, now: Instant) {
        let mut i = 0;
        while i < self.execs.len() {
            let Some(result) = self.execs[i].result(now) else {
                i += 1;
                continue;
            };
            let exec = self.execs.swap_remove(i);
            self.answer(FrameKind::Exit, exec.stream, &result);
            self.leftovers.extend(exec.into_leftovers());
        }
    }

    /// Kills every exec without an answer: the host that asked for them is gone.
    fn drop_streams(&mut self) {
        for exec in self.execs.drain(..) {
            exec.signal(libc::SIGKILL);
            self.leftovers.extend(exec.into_leftovers());
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Nothing | Act::Halt => {}
            Act::Signal(libc::SIGTERM) if self.init.as_ref().is_some_and(Init::ask_to_stop) => {}
            Act::Signal(signal) => {
                let mut groups = self.execs.iter().filter(|e| !e.has_ended()).map(Exec::pid);
                self.guest.signal_all(signal, &mut groups);
            }
        }
    }

    /// One step of the way out. True when it is done and the machine is not ours to end.
    fn shut_down(&mut self, now: Instant) -> bool {
        // While any process is left, pid 1 has a child.
        let anyone_left = self.reap();
        let act = self.phase.step(anyone_left, now);
        if act != Act::Halt {
            self.act(act);
            return false;
        }
        self.pump(now);
        self.finish(now + exec::GRACE);
        self.guest.settle();
        self.say(&AgentMessage::Halted);
        let until = Instant::now() + LAST_WORDS;
        while !self.link.outbox.is_empty() && !self.link.is_hung_up() && Instant::now() < until {
            let mut fds = [PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::OUT)];
            let _ = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }));
            if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) || self.link.flush().is_err() {
                break;
            }
        }
        self.guest.power_off();
        true
    }

    fn say(&mut self, message: &AgentMessage) {
        match encode(message) {
            Ok(payload) => self.link.outbox.push(Frame::control(payload).as_ref()),
            Err(error) => crate::log::line(error),
        }
    }

    fn answer<T: serde::Serialize>(&mut self, kind: FrameKind, stream: u32, message: &T) {
        match encode(message) {
            Ok(payload) => self.link.outbox.push(Frame::on_stream(kind, stream, payload).as_ref()),
            Err(_) => self.link.outbox.push(Frame::reset(stream).as_ref()),
        }
    }
}

/// What poll said.
struct Woken {
    signals: bool,
    link: bool,
    leftovers: bool,
}
