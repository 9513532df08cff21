//! From the kernel's first call of `/init` to a guest that takes commands.
//!
//! ```text
//!   early, before anybody is asked         on the host's `boot` message
//!   ──────────────────────────────         ─────────────────────────────────────────────────────
//!   /proc /sys /dev                        clock, entropy, hostname        who am I
//!   modules of group base                  modules of group net, eth0, lo  how am I reached
//!   the port, module of group root
//!   serve ──► `hello`                      data disk, /etc files, overlay  what do I keep
//!   root image, read-only                  switch root, /run /tmp /dev/pts ─► `ready`
//! ```
//!
//! The left side is the same for every guest of a kind, so it may be parked and forked; nothing of
//! it writes to a disk or draws a random number that matters. The right side makes one of them.
//!
//! Invariants: each step is named, so that a failure says where; a step that fails ends the boot,
//! because a guest with half an identity must not run anybody's command.

mod devices;
mod entropy;
mod identity;
mod machine;
mod modules;
mod mounts;
mod network;
mod overlay;
mod port;
mod quiet;
mod standstill;
mod steps;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::serve::BootFailure;
use machine::Machine;
use modules::Group;
use steps::Steps;

/// Descriptors the agent may hold: three pipes for each of a few hundred commands.
const OWN_FILES: u64 = 8192;

/// What commands may raise their own limit to.
const MOST_FILES: u64 = 512 * 1024;

/// Runs the guest. Returns only if it could not be set up; then the kernel panics, which is what
/// tells the host that this was no orderly end.
pub(crate) fn run() -> Result<(), crate::AgentError> {
    let mut steps = Steps::start();
    mounts::early()?;
    quiet::count_rarely();
    steps.done("mounts");
    modules::load(Group::Base)?;
    steps.done("modules");
    // First of all, so that host and guest work at the same time from here on.
    let line = port::open()?;
    steps.done("port");
    // The hypervisor is passing the host's first words on meanwhile.
    modules::load(Group::Root)?;
    steps.done("rootmodules");
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(OWN_FILES), maximum: Some(MOST_FILES) });
    let kernel = |step| move |errno| crate::AgentError::Kernel { step, errno };
    let signals = crate::sys::signals::listen().map_err(kernel("signals"))?;
    crate::serve::serve(line, signals, &mut Machine::new(steps)).map_err(kernel("serve"))
}

/// Names the step and the thing in a failure.
fn failed(step: &'static str, what: &str) -> impl FnOnce(Errno) -> BootFailure {
    let what = what.to_owned();
    move |errno| BootFailure { step, message: format!("{what}: {errno}") }
}
