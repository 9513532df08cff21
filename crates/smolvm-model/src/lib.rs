//! The pure rules of smolvm: names, states, ledger, plans, command lines.
//!
//! ```text
//!   words typed by people ──► name/, quantity ──► spec
//!                                                  │
//!   observation of the host ──► state, select ◄────┤
//!                                  │               ▼
//!                                  └──► ledger ──► teardown plan ──► (effects, in smolvm-host)
//! ```
//!
//! Invariants: no I/O, no clock, no randomness in this crate; every match over a state or a kind is
//! exhaustive; a value that exists is a valid one (constructors refuse, nothing is checked twice).

pub mod config;
pub mod effect;
pub mod engine;
pub mod error_code;
pub mod ledger;
pub mod name;
pub mod network;
pub mod quantity;
pub mod reference;
pub mod registries;
pub mod select;
pub mod signal;
pub mod spec;
pub mod state;
pub mod teardown;
