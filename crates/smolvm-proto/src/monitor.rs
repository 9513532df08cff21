//! What a client and a monitor say on stream 0 of the monitor's socket.
//!
//! The socket carries the same frames; other streams are relayed to the agent and back. One
//! request, one reply, in order; `Stop` is answered by `Stopping` and, when it is done, `Stopped`.

use serde::{Deserialize, Serialize};

/// Client to monitor. All of generation 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MonitorRequest {
    /// Who are you, and what do you run?
    Status,
    /// Orderly shutdown of the guest, then of the monitor.
    Stop {
        /// Time the guest's processes get between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// Halt the guest where it stands; answered by `paused`, also when it is so already.
    Pause,
    /// Let it go on, and give it the time; answered by `resumed`, also when it runs already.
    Resume,
    /// Say where the guest's memory is; answered by `located`. One client at a time may copy a guest, from here to `thaw`.
    Locate,
    /// Bring the guest to rest, halt it, and write the state of its devices beside the socket; answered by `frozen`.
    Freeze {
        /// Whether the guest writes to its disk first what it holds back.
        #[serde(default)]
        sync: bool,
        /// The number of an empty layer that lies beside the data disk: from here on the guest writes into that one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        layer: Option<u32>,
    },
    /// Layers of the data disk were merged into one, which reads the same: read that one. Answered by `merged`.
    Merged {
        /// Their numbers, and the last of them is now that one's.
        layers: Vec<u32>,
    },
    /// Let it be again what it was; answered by `resumed`, or by `paused` if it was. A client that leaves means the same.
    Thaw,
    /// End the hypervisor at once, then the monitor.
    Kill,
    /// A type this build does not know; answered by an error.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Monitor to client. All of generation 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MonitorReply {
    /// Answer to `status`.
    Status {
        /// The sandbox's id.
        id: String,
        /// The generation of the row this monitor serves.
        generation: u64,
        /// The hypervisor's pid.
        pid: u32,
        /// What the agent said in `hello`; nothing before it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_version: Option<String>,
    },
    /// The guest is halted.
    Paused,
    /// The guest runs, and its clock is right.
    Resumed,
    /// Where the guest's memory is.
    Located {
        /// The hypervisor's pid.
        pid: u32,
        /// Where the guest's memory begins in the hypervisor's.
        address: u64,
        /// The numbers of the layers of its data disk, the lowest first; from a monitor that knows of none, nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        layers: Vec<u32>,
    },
    /// The guest is halted, and the state of its devices is written.
    Frozen {
        /// Whether it writes into the new layer now, and no longer into the one that was the highest.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        layered: bool,
    },
    /// What was merged is read as one.
    Merged,
    /// The stop has begun.
    Stopping,
    /// The hypervisor is gone; the monitor ends next.
    Stopped,
    /// The request was not done.
    Error {
        /// The class, for programs.
        code: MonitorErrorCode,
        /// For people.
        message: String,
    },
    /// A type this build does not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// Why a monitor did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorErrorCode {
    /// The agent has not said `ready`, or no longer answers.
    GuestNotReady,
    /// The guest stands still.
    Paused,
    /// Another client is at it.
    Busy,
    /// The guest did not end in time.
    Timeout,
    /// A request this monitor does not know.
    Unsupported,
    /// The hypervisor could not be controlled.
    #[serde(other)]
    Engine,
}
