//! What tests stand on: sealed environments, private networks, strangers, and the leak oracle.
//!
//! ```text
//!   SealedEnv   a home of its own, a cleared environment, commands with deadlines
//!   NetnsHost   a private network ("the host") with a server behind a veth pair
//!   Dice        draws that a seed repeats
//!   Answers, TunnelProxy, Authority   what stands between us and a registry, and who vouches for it
//!   FakeStranger   a process that must live whatever smolvm does
//!   LeakOracle  the host before ──► test ──► the host after: every difference is a leak
//! ```
//!
//! Invariants: no product code in here, or product and judge are wrong together; nothing is killed
//! by name or bare pid; everything made is removed on drop, also when the test panics; waiting is
//! polling with a deadline.

#![allow(
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    reason = "test support runs arbitrary commands, reads its environment, removes its own directories and fails by panicking"
)]

pub mod answers;
pub mod authority;
pub mod dice;
pub mod dns;
pub mod freezer;
pub mod http;
pub mod hung;
pub mod netns;
pub mod oracle;
pub mod poll;
pub mod prerequisite;
pub mod process;
pub mod proxy;
pub mod sealed;
pub mod stranger;

pub use answers::{Answers, Asked, Reply};
pub use authority::{Authority, Certified};
pub use dice::Dice;
pub use dns::DnsServer;
pub use freezer::Freezer;
pub use http::HttpServer;
pub use hung::HungMount;
pub use netns::{Netns, NetnsHost, with_private_mounts};
pub use oracle::{Diff, LeakOracle, Scope};
pub use poll::until;
pub use proxy::TunnelProxy;
pub use sealed::{Cmd, Ran, Running, SealedEnv, Stdin};
pub use stranger::FakeStranger;
