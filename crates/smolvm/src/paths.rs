//! Where an installation keeps its things.
//!
//! ```text
//!   state/  state.db · locks/ · sandboxes/<id>/{owner,data.img,*.log} · snapshots/ · trash/
//!   cache/  kernels, initramfs, images: can be made again
//!   run/    <id>/{owner,monitor.sock,monitor.lock}
//! ```

use std::path::{Path, PathBuf};

use smolvm_model::name::SandboxId;

/// The three roots.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Paths {
    /// What must not be lost.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// What a reboot may take.
    pub run: PathBuf,
}

impl Paths {
    /// Everything under one directory, as `SMOLVM_HOME` asks for.
    pub fn beneath(home: &Path) -> Self {
        Self { state: home.join("state"), cache: home.join("cache"), run: home.join("run") }
    }

    /// The ledger's file.
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// The directory of lock files.
    pub fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }

    /// One sandbox's lock.
    pub fn lock(&self, id: &SandboxId) -> PathBuf {
        self.locks().join(format!("{id}.lock"))
    }

    /// The lock on what all sandboxes share in the network; the dot cannot stand in an id.
    pub fn network_lock(&self) -> PathBuf {
        self.locks().join(".network.lock")
    }

    /// The lock of whoever fills the pool; in it stands what the last one complained about.
    pub fn pool_lock(&self) -> PathBuf {
        self.locks().join(".pool.lock")
    }

    /// The directory of sandbox directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    /// One sandbox's directory.
    pub fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    /// One sandbox's data disk.
    pub fn disk(&self, id: &SandboxId) -> PathBuf {
        self.sandbox(id).join(DISK)
    }

    /// What is about to become one sandbox's data disk.
    pub fn new_disk(&self, id: &SandboxId) -> PathBuf {
        self.sandbox(id).join(NEW_DISK)
    }

    /// What is about to be unlinked.
    pub fn trash(&self) -> PathBuf {
        self.state.join("trash")
    }

    /// One sandbox's run directory.
    pub fn run_dir(&self, id: &SandboxId) -> PathBuf {
        self.run.join(id.as_str())
    }

    /// Where a monitor writes the state of the devices of a guest that is copied.
    pub fn saved_devices(&self, id: &SandboxId) -> PathBuf {
        self.sandbox(id).join("devices")
    }

    /// What was saved of sandboxes, and what is being saved.
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// The lock that a monitor holds as long as it lives.
    pub fn monitor_lock(&self, id: &SandboxId) -> PathBuf {
        self.run_dir(id).join("monitor.lock")
    }
}

/// Name of the data disk in a sandbox's directory.
pub const DISK: &str = "data.img";
/// Name of a data disk that is not whole yet.
const NEW_DISK: &str = "data.img.new";
/// Name of the file that carries the mark in a directory of ours.
pub const OWNER: &str = "owner";
/// Name of the monitor's socket in the run directory.
pub const SOCKET: &str = "monitor.sock";
/// Name of the file in the run directory that holds the variables of every command.
pub const ENV: &str = "env.json";
/// Name of the guest's console log.
pub const CONSOLE: &str = "console.log";
/// Name of the log of what the hypervisor complains about.
pub const HYPERVISOR_LOG: &str = "hypervisor.log";
/// Name of the log of the monitor's own complaints.
pub const MONITOR_LOG: &str = "monitor.log";
