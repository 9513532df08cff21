//! Comes to rest, so that the guest can be copied as it stands, and goes on.
//!
//! ```text
//!   Running ──freeze──► Stopping ──all stopped: `frozen`──► AtRest ──restore: another identity, seed and time──► Running
//!                       │  ▲  └──clock──► Running              └────clock: the time, in the guest that was copied──┘
//!                       └──┘ not in time: all go on, and a while later it is tried again
//! ```
//!
//! Invariants: no process runs between `frozen` and the moment at which the guest is the one that it is from then on, for
//! it could draw what its twin in another copy draws; nothing is sent in between; a copy that could not be made another
//! guest stays at rest. It is the host that gives up: the agent tries until it hears something else.

use std::time::{Duration, Instant};

use smolvm_proto::{AgentMessage, BootConfig, UnixTime};

use super::{BootFailure, Rest, Server};

/// What one attempt may take: so long the guest may stand still for nothing.
const ATTEMPT: Duration = Duration::from_millis(100);

/// After how long it is tried again, at first and at most: who waits for a disk may wait for long.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// What the host wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// The number of the request.
    seq: u64,
    /// Whether all that was written is to be on the disk: the disk alone may be what is copied.
    sync: bool,
}

/// Whether the guest's processes run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Motion {
    /// They do.
    Running,
    /// They do as yet: they could not all be stopped.
    Stopping {
        /// For this.
        wish: Wish,
        /// When it is tried again.
        at: Instant,
        /// How long it was waited for that.
        pause: Duration,
    },
    /// They do not, and the host was told.
    AtRest,
}

impl Motion {
    /// After an attempt that came to nothing.
    fn later(self, wish: Wish, now: Instant) -> Self {
        let [least, most] = PAUSES;
        let pause = match self {
            Self::Stopping { pause, .. } => (pause * 2).min(most),
            Self::Running | Self::AtRest => least,
        };
        Self::Stopping { wish, at: now + pause, pause }
    }

    /// When to look again.
    pub(super) fn wakes_at(self) -> Option<Instant> {
        match self {
            Self::Stopping { at, .. } => Some(at),
            Self::Running | Self::AtRest => None,
        }
    }
}

impl Server<'_> {
    pub(super) fn is_at_rest(&self) -> bool {
        self.motion == Motion::AtRest
    }

    /// The host wants the guest at rest.
    pub(super) fn freeze(&mut self, sync: bool, seq: u64) {
        if !self.has_booted() || self.phase.has_begun() {
            return;
        }
        if self.is_at_rest() {
            return self.say(&AgentMessage::Frozen { seq });
        }
        self.motion = Motion::Running;
        self.try_to_rest(Wish { seq, sync });
    }

    /// What is sent behind the answer would be half here and half there; so nothing is.
    fn try_to_rest(&mut self, wish: Wish) {
        // While they run: it may take longer than anybody is to stand still. Before each attempt, for they have run since
        // the last one, and written.
        if wish.sync {
            self.guest.sync();
        }
        let stopped = self.guest.stop_all(Instant::now() + ATTEMPT);
        if let Err(failure) = &stopped {
            crate::log::line(failure);
        }
        self.motion = match stopped {
            Ok(Rest::Reached) => {
                self.say(&AgentMessage::Frozen { seq: wish.seq });
                Motion::AtRest
            }
            Ok(Rest::Missed) | Err(_) => self.motion.later(wish, Instant::now()),
        };
    }

    /// Tries it once more, if it is time. A guest that goes down is put to rest no more, whoever wanted it down.
    pub(super) fn try_again_to_rest(&mut self) {
        if self.phase.has_begun() {
            return self.forget_to_rest();
        }
        if let Motion::Stopping { wish, at, .. } = self.motion
            && at <= Instant::now()
        {
            self.try_to_rest(wish);
        }
    }

    /// Whoever wanted the guest at rest, and has not got it, wants something else now.
    pub(super) fn forget_to_rest(&mut self) {
        if let Motion::Stopping { .. } = self.motion {
            self.motion = Motion::Running;
        }
    }

    fn go_on(&mut self) {
        if self.is_at_rest() {
            self.guest.let_all_go_on();
        }
        self.motion = Motion::Running;
        self.starter.begin_anew();
    }

    /// Makes another guest of a copy. The commands of the host side that froze it went when this one attached.
    pub(super) fn restore(&mut self, config: &BootConfig) {
        let outcome = if self.is_at_rest() {
            self.guest.restore(config)
        } else {
            Err(BootFailure { step: "restore", message: "the guest was not frozen".to_owned() })
        };
        let answer = match &outcome {
            Ok(ready) => AgentMessage::Ready(ready.clone()),
            Err(failure) => AgentMessage::Failed { step: failure.step.to_owned(), message: failure.message.clone() },
        };
        let is_another = outcome.is_ok();
        self.boot = Some(outcome);
        self.say(&answer);
        if is_another {
            // While all are let go the host is busy with the answer. A line that is broken shows in the next round.
            let _ = self.link.flush();
            self.go_on();
        }
    }

    /// The time: to a guest that stood still the word to go on, too.
    pub(super) fn set_clock(&mut self, time: UnixTime) {
        let shown = self.guest.set_clock(time);
        self.go_on();
        match shown {
            Ok(time) => self.say(&AgentMessage::Clock { time }),
            // Unanswered, it is the host's to decide what becomes of such a guest.
            Err(failure) => crate::log::line(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    use rustix::process::Pid;
    use smolvm_proto::{Decoder, Entropy, Ready, decode};

    use super::super::{Bystander, Guest};
    use super::*;

    /// A guest that notes what is done to it, and comes to rest at the attempt of this number.
    struct Noting {
        notes: Arc<Mutex<Vec<&'static str>>>,
        attempts: u32,
        restores: bool,
    }

    impl Noting {
        fn note(&self, what: &'static str) {
            self.notes.lock().unwrap().push(what);
        }
    }

    impl Guest for Noting {
        fn prepare(&mut self) {}

        fn park(&mut self, _network: bool, _fresh_disk: bool) -> Result<(), BootFailure> {
            Ok(())
        }

        fn parked(&mut self) {}

        fn set_clock(&mut self, time: UnixTime) -> Result<UnixTime, BootFailure> {
            self.note("clock");
            Ok(time)
        }

        fn boot(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
            Bystander.boot(config)
        }

        fn sync(&mut self) {
            self.note("sync");
        }

        fn stop_all(&mut self, _until: Instant) -> Result<Rest, BootFailure> {
            self.attempts -= 1;
            self.note(if self.attempts == 0 { "stop" } else { "miss" });
            Ok(if self.attempts == 0 { Rest::Reached } else { Rest::Missed })
        }

        fn let_all_go_on(&mut self) {
            self.note("go on");
        }

        fn restore(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
            self.note("restore");
            if self.restores { self.boot(config) } else { Err(BootFailure { step: "entropy", message: "none".to_owned() }) }
        }

        fn part_processes(&mut self) -> Result<(), BootFailure> {
            Ok(())
        }

        fn signal_all(&mut self, _signal: i32, _groups: &mut dyn Iterator<Item = Pid>) {}

        fn settle(&mut self) {}

        fn power_off(&mut self) {}

        fn outlives_host(&self) -> bool {
            true
        }
    }

    fn config() -> BootConfig {
        BootConfig {
            hostname: "copy".to_owned(),
            machine_id: "0".repeat(32),
            time: UnixTime { secs: 5, nanos: 0 },
            entropy: Entropy::new(vec![7; 64]).unwrap(),
            network: None,
            data_disk: false,
            init: None,
        }
    }

    /// A guest that has booted, and what it has said since it was last asked.
    fn guest(
        attempts: u32,
        restores: bool,
        test: impl FnOnce(&mut Server<'_>, &mut dyn FnMut(&mut Server<'_>) -> Vec<AgentMessage>),
    ) -> Vec<&'static str> {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let mut noting = Noting { notes: Arc::clone(&notes), attempts, restores };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (silent, _end) = rustix::pipe::pipe().unwrap();
        let mut server = Server::new(theirs.into(), silent, &mut noting).unwrap();
        server.boot = Some(Bystander.boot(&config()));
        let mut decoder = Decoder::new();
        test(&mut server, &mut |server| {
            server.link.flush().unwrap();
            let mut bytes = [0; 4096];
            if let Ok(count) = ours.read(&mut bytes) {
                decoder.push(&bytes[..count]);
            }
            std::iter::from_fn(|| decoder.next_frame().unwrap()).map(|frame| decode(&frame.payload).unwrap()).collect()
        });
        drop(server);
        std::mem::take(&mut *notes.lock().unwrap())
    }

    #[test]
    fn a_copy_is_another_guest_before_anybody_goes_on() {
        let notes = guest(1, true, |server, said| {
            server.freeze(true, 4);
            assert_eq!(said(server), [AgentMessage::Frozen { seq: 4 }]);
            server.freeze(false, 5);
            assert_eq!(said(server), [AgentMessage::Frozen { seq: 5 }], "it is at rest");
            server.restore(&config());
            assert!(matches!(&*said(server), [AgentMessage::Ready(_)]));
            assert_eq!(server.motion, Motion::Running);
        });
        assert_eq!(notes, ["sync", "stop", "restore", "go on"]);
    }

    #[test]
    fn a_copy_that_is_no_other_guest_stays_at_rest() {
        let notes = guest(1, false, |server, said| {
            server.freeze(false, 4);
            server.restore(&config());
            assert!(matches!(&*said(server), [AgentMessage::Frozen { .. }, AgentMessage::Failed { .. }]));
            assert!(server.is_at_rest());
        });
        assert_eq!(notes, ["stop", "restore"]);
    }

    #[test]
    fn who_goes_on_after_a_copy_knows_the_time() {
        let notes = guest(1, true, |server, said| {
            server.freeze(false, 4);
            server.set_clock(UnixTime { secs: 9, nanos: 0 });
            assert_eq!(said(server).len(), 2);
            // Corrections come to a guest that runs.
            server.set_clock(UnixTime { secs: 9, nanos: 0 });
        });
        assert_eq!(notes, ["stop", "clock", "go on", "clock"]);
    }

    /// It is to be tried again now.
    fn it_is_time(server: &mut Server<'_>) {
        let Motion::Stopping { at, .. } = &mut server.motion else { panic!("{:?}", server.motion) };
        *at = Instant::now();
    }

    #[test]
    fn a_guest_that_has_begun_to_go_down_is_not_put_to_rest() {
        let notes = guest(2, true, |server, said| {
            server.freeze(true, 4);
            // As when it is the guest itself that powers off, of which no host has said anything.
            server.phase.ask(Duration::from_secs(5), Instant::now());
            it_is_time(server);
            server.try_again_to_rest();
            assert_eq!((server.motion, said(server).len()), (Motion::Running, 0));
        });
        assert_eq!(notes, ["sync", "miss"]);
    }

    #[test]
    fn a_guest_that_cannot_be_stopped_runs_and_is_tried_again_until_the_host_gives_up() {
        let again = |server: &mut Server<'_>| {
            it_is_time(server);
            server.try_again_to_rest();
        };
        let notes = guest(3, true, |server, said| {
            server.freeze(true, 4);
            assert!(said(server).is_empty() && !server.is_at_rest() && server.timeout().is_some());
            server.try_again_to_rest();
            again(server);
            assert!(said(server).is_empty());
            again(server);
            assert_eq!(said(server), [AgentMessage::Frozen { seq: 4 }]);
        });
        assert_eq!(notes, ["sync", "miss", "sync", "miss", "sync", "stop"], "what was written in between is on the disk, too");
        for gives_up in
            [|server: &mut Server<'_>| server.set_clock(UnixTime { secs: 9, nanos: 0 }), |server: &mut Server<'_>| server.forget_to_rest()]
        {
            guest(3, true, |server, _| {
                server.freeze(false, 4);
                gives_up(server);
                assert_eq!((server.motion, server.motion.wakes_at()), (Motion::Running, None));
            });
        }
    }

    #[test]
    fn attempts_become_rare_and_never_end() {
        let now = Instant::now();
        let mut motion = Motion::Running;
        let waits: Vec<u128> = (0..9)
            .map(|_| {
                motion = motion.later(Wish { seq: 1, sync: false }, now);
                motion.wakes_at().unwrap().duration_since(now).as_millis()
            })
            .collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    }
}
