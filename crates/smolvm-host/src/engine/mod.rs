//! QEMU: what it is and needs, what this host can run it with, its start and its control socket.
//!
//! ```text
//!   probe   binary ──► version, libraries, firmware (cached by inode, verified by stat)
//!   accel   /dev/kvm ──► ns per guest instruction; TSC frequency (cached per boot)
//!   launch  both + files + sockets ──► jail ──► a hypervisor that has greeted on QMP, and what was enforced on it
//!   migration  a machine's devices: written when it is parked or copied, loaded by each fork
//!   blocks  the layers of a disk that is in use
//!   guest_memory  the memory of a machine that runs: copied, but for what its file has already
//!   qmp     its control socket: a blocking client, and a parser for poll loops
//! ```
//!
//! Invariants: nothing is believed because a file is present; the hypervisor's output is capped and
//! parsed as data from a stranger.

pub mod accel;
pub mod blocks;
mod elf;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod guest_memory;
mod kvm_ioctl;
pub mod launch;
pub mod migration;
pub mod probe;
pub mod qmp;
