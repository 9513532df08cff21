//! What the agent says on stream 0. None of it is proof of anything to the host but that the guest said it.

use serde::{Deserialize, Serialize};

use super::host::UnixTime;

/// Agent to host. All of generation 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    /// First message of every attach.
    Hello {
        /// Version of the agent's build.
        agent_version: String,
        /// The generation chosen in the attach reply.
        generation: u16,
        /// Whether `boot` was done before, by an earlier host side; then no `boot` is needed.
        #[serde(default)]
        booted: bool,
    },
    /// The guest is what `boot` asked for, and takes execs.
    Ready(Ready),
    /// `boot` or `park` could not be done; the guest is of no use.
    Failed {
        /// The step of the boot, one word.
        step: String,
        /// What the kernel said.
        message: String,
    },
    /// `park` is done: until the next host side greets it, the guest does nothing.
    Parked,
    /// `freeze` is done: nothing more is sent before the guest is told to go on.
    Frozen {
        /// The number of the request.
        #[serde(default)]
        seq: u64,
    },
    /// The guest's clock, after it was set again.
    Clock {
        /// What it shows.
        time: UnixTime,
    },
    /// Answer to `ping`.
    Pong {
        /// The number of the ping.
        seq: u64,
    },
    /// All is synced; the guest powers off now, asked by the host or by itself.
    Halted,
    /// A type this build does not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// The guest's identity as the agent read it back, not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// From the kernel.
    pub hostname: String,
    /// From `/etc/machine-id`.
    pub machine_id: String,
    /// From the interface, when a network was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The guest's clock.
    pub time: UnixTime,
    /// Bytes credited to the kernel's generator.
    pub entropy_bytes: u32,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// How long the steps of the boot took, for people and benchmarks.
    #[serde(default)]
    pub steps: Vec<StepTime>,
}

/// One step of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// One word.
    pub step: String,
    /// Microseconds.
    pub us: u64,
}
