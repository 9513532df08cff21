//! The namespaces, ids and limits a hypervisor runs in.
//!
//! ```text
//!   monitor (one thread) ── clone ──► pid 1 of its own pid namespace
//!                                       │  nothing of its parent's open; empty tmpfs root; the named files bound into it, read-only;
//!                                       │  host detached; limits; ids; no capability; no new privileges, Landlock, dies with its parent
//!     "armed" ◄──────── pipe ───────────┤
//!     order ──────────── socket ───────►│  descriptors at their numbers, all others closed
//!                                       └─ execve (empty environment); the pipe closes, or says which step failed
//! ```
//!
//! - [`make`] makes the jail of what it is to see, as soon as that is known; [`Jail::start`] gives it what comes last ([`Order`]), and waits
//!   for its program to run. Both are the mechanism; it knows nothing of QEMU.
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
mod order;
mod plan;
mod spawn;
mod step;

pub use inspect::{Enforced, Missing};
pub use opens::Listener;
pub use order::Order;
pub use spawn::{Jail, JailError, JailFile, JailIdentity, JailSpec, Jailed, Limits, Opens, make, reap};
pub use step::Step;
