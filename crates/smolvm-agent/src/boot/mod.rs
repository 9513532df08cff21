//! From the kernel's first call of `/init` to a guest that takes commands.
//!
//! ```text
//!   early, before anybody is asked         on the host's `boot` message
//!   ──────────────────────────────         ─────────────────────────────────────────────────────
//!   /proc /sys /dev                        clock, entropy, hostname        who am I
//!   modules of group base                  modules of group net, eth0, lo  how am I reached
//!   root image, read-only                  data disk, overlay, switch root what do I keep
//!   the port ──► serve                     /etc files, /run /tmp /dev/pts ─► `ready`
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
    steps.done("mounts");
    modules::load(Group::Base)?;
    steps.done("modules");
    // The port is announced by the device while this goes on; failure is told once there is someone to tell.
    let root = overlay::mount_image();
    steps.done("image");
    let line = port::open()?;
    steps.done("port");
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(OWN_FILES), maximum: Some(MOST_FILES) });
    let kernel = |step| move |errno| crate::AgentError::Kernel { step, errno };
    let signals = crate::sys::signals::listen().map_err(kernel("signals"))?;
    crate::serve::serve(line, signals, &mut Machine::new(root, steps)).map_err(kernel("serve"))
}

/// Names the step and the thing in a failure.
fn failed(step: &'static str, what: &str) -> impl FnOnce(Errno) -> BootFailure {
    let what = what.to_owned();
    move |errno| BootFailure { step, message: format!("{what}: {errno}") }
}
