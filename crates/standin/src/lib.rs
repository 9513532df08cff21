//! What the two programs of the jail's tests say to each other.
//!
//! ```text
//!   test ──► launcher (one thread, the monitor's part; production launch code) ──► standin (in QEMU's place, production argv and fds)
//!                  agent socket: Targets ──────────────────────────────────────────►│ tries everything
//!                  console socket: one Tried per line ◄──────────────────────────────┘
//! ```

use serde::{Deserialize, Serialize};

/// Things on the host that the program in the jail goes for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Targets {
    /// A file of another sandbox that the program's own uid may read and write.
    pub other_file: String,
    /// A listening Unix socket that everyone may connect to.
    pub unix_path: String,
    /// A listening abstract Unix socket, without the leading NUL.
    pub unix_abstract: String,
    /// A TCP port somebody listens on, on 127.0.0.1.
    pub tcp_port: u16,
    /// A process that may be signalled and traced.
    pub victim_pid: i32,
    /// The size its files may have.
    pub file_size: u64,
    /// The libraries' directory, to have one more file that is mounted.
    pub library: String,
    /// The template to go for, by a fork; then nothing else is tried.
    #[serde(default)]
    pub template: Option<Template>,
    /// What to do when all was tried.
    pub then: Then,
}

/// Where a template is on the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Template {
    /// Its memory.
    pub memory: String,
    /// The state of its devices.
    pub devices: String,
}

/// Bytes of a template's memory that are mapped; it is longer.
pub const MAPPED: usize = 4096;

/// The end of a stand-in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// Exit with status 0.
    #[default]
    Exit,
    /// Stay until killed.
    Stay,
    /// Die of an abort.
    Abort,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// What was attempted.
    pub what: String,
    /// Zero if it succeeded, else the kernel's answer.
    pub errno: i32,
}

/// The last line of a report.
pub const END: &str = "end";
