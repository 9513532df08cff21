//! What the host says on stream 0.

use serde::{Deserialize, Serialize};

use crate::hex::Entropy;

/// Host to agent. All of generation 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// Who the guest is; answered by `ready` or `failed`. Once per boot; a later one is answered by `ready` as it was.
    Boot(BootConfig),
    /// Do everything that is the same for all guests of a kind, and nothing that is not; answered by `parked` or `failed`.
    /// The machine is then stopped, and every fork of it is greeted by a host side of its own.
    Park {
        /// Whether there is a network device to be found.
        network: bool,
        /// Whether the data disk is as empty as that of every fork will be: then it is mounted, and the root put together.
        fresh_disk: bool,
        /// Commands that are run before, so that what they read is in every fork's memory; only with a fresh disk.
        #[serde(default)]
        rehearse: Vec<Vec<String>>,
    },
    /// The time again, for a guest whose clock was found off; answered by `clock`.
    Clock {
        /// The host's clock when it sent the message.
        time: UnixTime,
    },
    /// Come to rest, so that the machine can be copied as it stands: answered by `frozen`, behind which no process runs and
    /// nothing is sent until `clock` or `restore` comes. The host sends nothing between this and that, either: so both sides of a copy begin with
    /// a line on which no message is half way.
    Freeze {
        /// Whether all that was written is to be on the disk first.
        #[serde(default)]
        sync: bool,
        /// Comes back in the answer: one that is late must not be taken for that to a later request.
        #[serde(default)]
        seq: u64,
    },
    /// The first word to a copy of a frozen guest: who it is from now on; answered by `ready` or `failed`. What runs in it
    /// goes on, but for the commands whose host side is not this one.
    Restore(BootConfig),
    /// Answered by `pong` with the same number.
    Ping {
        /// Anything.
        seq: u64,
    },
    /// End all processes, sync, answer `halted`, power off.
    Shutdown {
        /// Time between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// A type this build does not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Everything that makes one guest differ from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootConfig {
    /// The sandbox's id.
    pub hostname: String,
    /// For `/etc/machine-id`: 32 lower-case hex digits.
    pub machine_id: String,
    /// The host's clock when it sent the message.
    pub time: UnixTime,
    /// Credited to the kernel's generator, which is then reseeded.
    pub entropy: Entropy,
    /// Configures `eth0`; without it no network module is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    /// Whether there is a disk with `serial=data` for the upper layer; without one it is memory.
    #[serde(default)]
    pub data_disk: bool,
    /// Whether the image's own init is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitConfig>,
}

/// How the image's own init is treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitConfig {
    /// The signal that asks it to power off; without one the agent knows what is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<i32>,
}

/// A moment of the host's real-time clock, in two numbers that every JSON reader keeps whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds since 1970.
    pub secs: u64,
    /// And nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A static address on a point-to-point link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// `02:…`, set from inside the guest; the host enforces it.
    pub mac: String,
    /// The guest's IPv4 address.
    pub address: String,
    /// Bits of the network, mostly 32.
    pub prefix: u8,
    /// Default gateway, reached on the link whatever the prefix.
    pub gateway: String,
    /// Name servers for `/etc/resolv.conf`.
    #[serde(default)]
    pub dns: Vec<String>,
}
