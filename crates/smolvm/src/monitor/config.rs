//! What a monitor is told by the command that starts it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::installation::Settings;

/// Everything one run needs, resolved; one JSON object on the monitor's standard input.
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
