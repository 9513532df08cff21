//! The command line where it needs no virtual machine: help, usage, refusals, the envelope, completion.
//!
//! Everything runs the real binary in a sealed environment. `SMOLVM_BLESS=1` writes snapshots anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cleanup;
mod completion;
mod config;
mod empty_home;
mod help;
mod home;
mod place;
mod prompt;
mod schema;
mod streams;
mod unknown;
mod usage;
