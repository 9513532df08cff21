//! The guest agent: pid 1 in every sandbox.
//!
//! ```text
//!   pid 1:          boot::early (mounts, modules, port) ─► serve (attach, boot message, execs) ─► power off
//!   --serve-stdin:  serve on the socket that is stdin, on a plain host: no mounts, no machine. For tests.
//! ```
//!
//! It is entered where the C library hands over, not through Rust's own start: that reads `/proc/self/maps`, makes a
//! stack for a signal handler and polls the standard descriptors: some 500 blocks of code that TCG would translate for it.
//!
//! Invariants: one thread; no file outside the guest is ever seen; everything that only pid 1 of a
//! guest may do is behind the `Guest` trait, and refuses to run in any other process.

#![cfg_attr(not(test), no_main)]

mod boot;
mod command;
mod log;
mod serve;
mod sys;
mod users;

/// The exit status.
fn run() -> i32 {
    // A reader that went away is told by an error, not by the end of pid 1.
    sys::signals::ignore_broken_pipes();
    let result = if rustix::process::getpid().is_init() { boot::run() } else { serve_inherited() };
    match result {
        Ok(()) => 0,
        Err(error) => {
            log::line(&error);
            1
        }
    }
}

/// Why the agent ends early.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// Started as an ordinary program without the one argument that makes sense there.
    #[error("this is the guest's init; on a host it only runs as {SERVE}, for tests")]
    Usage,
    /// The kernel refused what cannot be done without.
    #[error("{step}: {errno}")]
    Kernel {
        /// One word.
        step: &'static str,
        /// What it said.
        errno: rustix::io::Errno,
    },
    /// A step before the host could be told failed.
    #[error(transparent)]
    Boot(#[from] serve::BootFailure),
}

/// The argument for tests.
const SERVE: &str = "--serve-stdin";

/// Serves on stdin, as a guest that is no machine.
fn serve_inherited() -> Result<(), AgentError> {
    if std::env::args().skip(1).ne([SERVE.to_owned()]) {
        return Err(AgentError::Usage);
    }
    let kernel = |step| move |errno| AgentError::Kernel { step, errno };
    let line = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(kernel("line"))?;
    rustix::io::ioctl_fionbio(&line, true).map_err(kernel("line"))?;
    sys::inherited::forget();
    // As pid 1 does by nature: orphans of commands come to us.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(kernel("subreaper"))?;
    let signals = sys::signals::listen().map_err(kernel("signals"))?;
    serve::serve(line, signals, &mut serve::Bystander).map_err(kernel("serve"))
}
