//! The namespaces, ids and limits a hypervisor runs in.
//!
//! ```text
//!   monitor (one thread) ── clone ──► pid 1 of its own pid namespace
//!                                       │  empty tmpfs root; the named files bound into it, read-only; host detached
//!     "armed" ◄──────── pipe ───────────┤  descriptors at their fixed numbers, all others closed; limits; ids; no capability
//!     go ─────────────── pipe ─────────►│  no new privileges, Landlock, dies with its parent
//!                                       └─ execve (empty environment); the pipe closes, or says which step failed
//! ```
//!
//! - [`spawn`] is the mechanism; it knows nothing of QEMU.
//! - [`inspect`] reads back from the kernel what holds for a running process: what `inspect` shows and
//!   what decides whether a start fails closed comes from there, not from what was intended.
//! - [`check`] tells what this host can give, for `doctor`.
//!
//! Invariants: the child runs no code that allocates, locks or unwinds between clone and exec; the
//! program never runs before its parent knows that it dies with it; nothing of the host is visible in
//! the jail but what the caller listed.

pub mod check;
mod child;
pub mod inspect;
mod landlock;
mod opens;
mod plan;
mod spawn;
mod step;

pub use inspect::{Enforced, Missing};
pub use opens::Listener;
pub use spawn::{JailError, JailFile, JailIdentity, JailSpec, Jailed, Limits, Opens, reap, spawn};
pub use step::Step;
