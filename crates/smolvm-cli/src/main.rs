//! The command line of smolvm: the only crate that prints, exits, or reads the environment.
//!
//! ```text
//!   argv ──► args (clap) ──► commands/<verb> ──► smolvm (library) ──► Reply ──► output ──► stdout, stderr, exit status
//!             │ usage errors ───────────────────────────────────────────────────────▲
//!             └ "monitor": the process that owns a running sandbox, before anything else; "refill": one that fills the pool
//! ```
//!
//! Invariants: a command returns a `Reply` and prints nothing itself, but for guest streams, the
//! prompt of `cleanup` and progress on a terminal; stdout carries data and nothing else.

mod args;
mod commands;
mod context;
mod env;
mod exit;
mod output;
#[cfg(test)]
mod reference;
mod signals;

use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // One monitor lives as long as its sandbox: nothing that it does not need is built first.
    if argv.get(1).is_some_and(|verb| verb == "monitor") {
        return ExitCode::from(smolvm::monitor::run());
    }
    if argv.get(1).is_some_and(|verb| verb == "refill") {
        return ExitCode::from(smolvm::pool::refill());
    }
    ExitCode::from(commands::dispatch(&argv))
}
