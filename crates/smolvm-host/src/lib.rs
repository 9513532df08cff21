//! Every effect smolvm has on the host, behind narrow functions.
//!
//! ```text
//!   effect/  the gate for everything that outlives the process
//!   proc/    run a tool, know a process, end a process
//!   fdpass   a descriptor that goes through a socket
//!   fsx/     files beneath a directory, atomically
//!   lock     advisory locks
//!   config_file  what a user settled once
//!   store/   the ledger in SQLite
//!   net/     TAPs, nftables, sysctls, name service for guests
//!   disk/    the layers of a data disk, shared by those that came from one
//!   image/   kernel, initramfs, root images
//!   engine/  QEMU: what it can, its command line, its control socket
//!   jail/    the namespaces, ids and limits it runs in
//! ```
//!
//! Invariants: nothing here knows the lifecycle of a sandbox and nothing calls upward; no function
//! reads the environment; every effect can be done twice.

pub mod config_file;
pub mod disk;
pub mod effect;
pub mod embed;
pub mod engine;
pub mod fdpass;
pub mod fsx;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod image;
pub mod install;
pub mod jail;
pub mod lock;
pub mod net;
pub mod proc;
pub mod random;
pub mod store;
pub mod threads;
