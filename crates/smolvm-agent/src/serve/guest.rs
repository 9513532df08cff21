//! The seam between serving and the machine that is served.

use std::time::Instant;

use rustix::process::Pid;
use smolvm_proto::{BootConfig, Ready, UnixTime};

/// A step of the boot that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {message}")]
pub(crate) struct BootFailure {
    /// One word.
    pub(crate) step: &'static str,
    /// What the kernel said, about what.
    pub(crate) message: String,
}

/// How an attempt to stop all processes of a guest went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// None of them runs.
    Reached,
    /// Some could not be stopped in time: all go on.
    Missed,
}

/// What only pid 1 of a real guest may do.
pub(crate) trait Guest {
    /// Does what is the same for every guest of a kind. Called once, when the host was greeted: it makes up its
    /// mind while this goes on. A failure is told by [`Guest::boot`].
    fn prepare(&mut self);

    /// Does what else is the same for every guest of a kind: it is parked, and forked many times.
    fn park(&mut self, network: bool, fresh_disk: bool) -> Result<(), BootFailure>;

    /// All that was to be done before it is parked is done: what comes next is a fork's own beginning.
    fn parked(&mut self);

    /// Sets the clock; gives what it then shows.
    fn set_clock(&mut self, time: UnixTime) -> Result<UnixTime, BootFailure>;

    /// Makes the guest what the host asked for.
    fn boot(&mut self, config: &BootConfig) -> Result<Ready, BootFailure>;

    /// Gives all processes to come a namespace of their own, and the groups of processes that an init manages.
    fn part_processes(&mut self) -> Result<(), BootFailure>;

    /// Writes to the disks what is held back.
    fn sync(&mut self);

    /// Stops every process of the guest but the agent, by this moment or not at all.
    fn stop_all(&mut self, until: Instant) -> Result<Rest, BootFailure>;

    /// Lets those go on that were stopped.
    fn let_all_go_on(&mut self);

    /// Makes another guest of a copy: all that tells one from another is new.
    fn restore(&mut self, config: &BootConfig) -> Result<Ready, BootFailure>;

    /// Sends a signal to every process of the guest; `groups` are those of the running execs.
    fn signal_all(&mut self, signal: i32, groups: &mut dyn Iterator<Item = Pid>);

    /// Brings the disks to rest. All processes are gone.
    fn settle(&mut self);

    /// Ends the machine; returns where that is not its to end.
    fn power_off(&mut self);

    /// Whether the loop goes on waiting when the host's end of the line closes.
    fn outlives_host(&self) -> bool;
}

/// A guest that is no machine: the serve loop on a plain host, for tests.
pub(crate) struct Bystander;

impl Guest for Bystander {
    fn prepare(&mut self) {}

    fn park(&mut self, _network: bool, _fresh_disk: bool) -> Result<(), BootFailure> {
        Ok(())
    }

    fn parked(&mut self) {}

    /// The clock here is not its to set.
    fn set_clock(&mut self, _time: UnixTime) -> Result<UnixTime, BootFailure> {
        let (secs, nanos) = crate::sys::clock::wall();
        Ok(UnixTime { secs, nanos })
    }

    fn boot(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
        if config.data_disk {
            return Err(BootFailure { step: "disks", message: "there is no data disk here".to_owned() });
        }
        Ok(Ready {
            hostname: config.hostname.clone(),
            machine_id: config.machine_id.clone(),
            address: None,
            time: config.time,
            entropy_bytes: 0,
            uptime_ms: crate::sys::clock::uptime_us() / 1000,
            steps: Vec::new(),
        })
    }

    fn part_processes(&mut self) -> Result<(), BootFailure> {
        Err(BootFailure { step: "init", message: "this is no machine".to_owned() })
    }

    fn sync(&mut self) {}

    /// Nor are the processes here.
    fn stop_all(&mut self, _until: Instant) -> Result<Rest, BootFailure> {
        Ok(Rest::Reached)
    }

    fn let_all_go_on(&mut self) {}

    fn restore(&mut self, config: &BootConfig) -> Result<Ready, BootFailure> {
        self.boot(config)
    }

    fn signal_all(&mut self, signal: i32, groups: &mut dyn Iterator<Item = Pid>) {
        for leader in groups {
            crate::sys::kill::group(leader, signal);
        }
    }

    fn settle(&mut self) {}

    fn power_off(&mut self) {}

    fn outlives_host(&self) -> bool {
        false
    }
}
