//! The smolvm library: sandboxes, their lifecycle and their removal.
//!
//! ```text
//!   verbs        create start stop delete list inspect exec run logs cleanup setup doctor
//!                   │      │     │     │                          │
//!                   ▼      ▼     └──┬──┴──────────────────────────┘
//!   network/    reserve  raise      ▼
//!   monitor/             one per run   teardown/  the one path that takes anything back
//!                   │      │           │
//!                   └──────┴─────┬─────┘
//!                                ▼
//!                 smolvm-host (effects)   smolvm-model (rules)
//! ```
//!
//! Invariants: an effect is recorded before it happens; no database transaction is open across an
//! effect; whoever changes a sandbox holds its lock; a look changes nothing; nothing here prints,
//! exits or reads the environment.

mod auto_name;
mod capacity;
pub mod cleanup;
pub mod clock;
pub mod config;
mod copy;
pub mod create;
pub mod delete;
pub mod df;
pub mod doctor;
pub mod error;
pub mod exec;
pub mod fork;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod halves;
pub mod image;
pub mod inspect;
pub mod installation;
pub mod list;
pub mod logs;
pub mod monitor;
mod network;
mod observe;
pub mod paths;
pub mod pause;
pub mod pool;
pub mod prune;
pub mod reach;
pub mod resume;
pub mod run;
#[cfg(feature = "seed")]
pub mod seed;
mod session;
pub mod setup;
pub mod snapshot;
pub mod start;
pub mod stats;
pub mod stop;
mod teardown;
pub mod template;
#[cfg(test)]
mod testing;
pub mod time;
pub mod view;

pub use error::Error;
pub use installation::{Settings, Smolvm};
pub use paths::Paths;
