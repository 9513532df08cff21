//! Ends a tool with the process that runs it.
//!
//! A command that is killed leaves its tool behind, at work: `nft` would add a sandbox's elements after
//! the next command has looked, found none, and forgotten the sandbox.

#![expect(unsafe_code, reason = "a step between fork and exec; there is no safe call for it")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// The kernel kills what `command` starts when the calling thread ends, which waits for it.
pub(super) fn tie(command: &mut Command) {
    let caller = getpid();
    let arm = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Killed before it was armed.
        if getppid() == Some(caller) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only what is safe in a signal handler may happen: two system calls on
    // numbers, and errors that take no memory.
    unsafe { command.pre_exec(arm) };
}
