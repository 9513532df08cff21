//! What a monitor is told by the command that starts it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use smolvm_host::image::template::DiskState;
use smolvm_model::engine::GuestMemory;
use smolvm_proto::InitConfig;

use crate::installation::Settings;

/// What one run is of, resolved: all that is known before anything is made for it. One JSON object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MonitorConfig {
    /// Where the installation is.
    pub settings: Settings,
    /// The sandbox.
    pub id: String,
    /// Generation of its row while it is starting.
    pub generation: i64,
    /// The launch token.
    pub token: String,
    /// Virtual processors.
    pub cpus: u8,
    /// Guest memory.
    pub memory_mib: u32,
    /// Where its memory comes from.
    pub memory: MonitorMemory,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// The read-only root image.
    pub image: PathBuf,
    /// The data disk's size.
    pub disk_bytes: u64,
    /// The guest's machine id: 32 hex digits.
    pub machine_id: String,
    /// The uid the hypervisor runs under; the caller's own without one.
    pub uid: Option<u32>,
    /// The network, if it has one.
    pub network: Option<MonitorNetwork>,
    /// The image's own init, if it is booted.
    pub init: Option<InitConfig>,
}

/// Where the guest's memory comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum MonitorMemory {
    /// It boots.
    Boot,
    /// It boots to become a template, and is parked instead of being told who it is.
    Park {
        /// Where its memory is kept.
        memory: PathBuf,
        /// Where the state of its devices is written.
        devices: PathBuf,
        /// What is on the data disk of its forks.
        disk: DiskState,
        /// What it runs before it is parked.
        rehearse: Vec<Vec<String>>,
    },
    /// It goes on as a copy of a machine that ran.
    Restore {
        /// That machine's memory.
        memory: PathBuf,
        /// The state of its devices.
        devices: PathBuf,
    },
    /// It is forked from the template whose directory is handed over with this.
    Fork,
}

impl MonitorMemory {
    /// Whether the guest goes on only once the command has said another byte: its memory is all there then, and the rules for it are in place.
    /// A command that ends before that has given up.
    pub(crate) fn awaits_word(&self) -> bool {
        match self {
            Self::Boot | Self::Park { .. } => false,
            Self::Restore { .. } | Self::Fork => true,
        }
    }

    /// What kind of memory a hypervisor has then.
    pub(super) fn kind(&self) -> GuestMemory {
        match self {
            Self::Boot => GuestMemory::Anonymous,
            Self::Park { .. } => GuestMemory::Parked,
            Self::Restore { .. } => GuestMemory::Restored,
            Self::Fork => GuestMemory::Forked,
        }
    }

    /// Whether it is a template's.
    pub(crate) fn is_fork(&self) -> bool {
        matches!(self, Self::Fork)
    }
}

/// How the guest is attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum MonitorNetwork {
    /// Through a TAP that is there already.
    Tap {
        /// Its name.
        tap: String,
        /// The guest's Ethernet address.
        mac: String,
        /// The guest's address.
        address: Ipv4Addr,
        /// The host's end.
        gateway: Ipv4Addr,
    },
    /// Through a helper process.
    User {
        /// The guest's Ethernet address.
        mac: String,
        /// The guest's address.
        address: Ipv4Addr,
        /// Gateway and name server, as the guest sees them.
        gateway: Ipv4Addr,
    },
}
