//! Tasks for people and for CI: one entry for both, `cargo xtask <task>`.
//!
//! ```text
//!   build   static agent ──► embedded into target/release/smolvm
//!   deps    which system packages are missing, and their installation
//!   test    deps, build --debug, smolvm setup, every test
//!   tidy    the rules of the house, each with its reason
//!   fuzz    what is read from others, tried with what nobody would write
//!   ci      what .ci/run runs
//!   demo    the main job, visibly, from nothing
//!   seed    many stale sandboxes        bench   the numbers of docs/promises.md
//! ```
//!
//! Invariants: works in a fresh clone; writes only beneath the target directory (and `bench/results`
//! when asked to measure); installs packages through apt only; progress goes to stderr.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool: it runs cargo and apt with the developer's own environment, and talks to a terminal"
)]

mod bench;
mod build;
mod ci;
mod cli;
mod demo;
mod deps;
mod elf;
mod fuzz;
mod seed;
mod sh;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match cli::dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
