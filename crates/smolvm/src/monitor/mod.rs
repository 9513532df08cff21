//! The monitor: the process that owns one running sandbox.
//!
//! ```text
//!            ┌───────────────── monitor (one poll loop, one thread) ─────────────────┐
//!  clients ──┤ monitor.sock ─► relay ─► streams renumbered ─► agent link ──► guest    │
//!            │ QMP events · console and stderr to capped logs · name service for TAPs │
//!            │ pidfd of the hypervisor: its end is the monitor's end                  │
//!            └────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: it holds `monitor.lock` as long as it lives; the hypervisor cannot outlive it (a
//! parent-death signal, ADR 1); memory is bounded whatever guest or clients send; it opens the ledger
//! only to write a fact and closes it again; nothing a guest says decides about the host.

mod client;
mod config;
mod copy;
mod disk;
mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guest;
pub(crate) mod handover;
mod log;
mod network;
mod outgoing;
mod park;
mod pause;
mod poll;
mod ready;
mod relay;
mod report;
mod requests;
mod run;
mod stop;
mod vmm;

pub(crate) use exit::GUEST_POWEROFF;

pub use config::{MonitorConfig, MonitorMemory, MonitorNetwork};
pub use report::Report;
pub use run::run;
