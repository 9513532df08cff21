//! The state of a machine's devices, without its memory: written when a template is parked or a machine that runs is
//! copied, loaded by each fork.
//!
//! ```text
//!   park:     migrate to a file ─► "completed": the machine has stopped, its memory is in the file it is mapped from
//!   save:     the machine is stopped, its devices are written to a file; its memory is read by somebody else, and it goes on
//!   restore:  expect, then migrate-incoming from fd:DEVICES, cont: it runs as soon as it is loaded
//! ```
//!
//! Both sides must name the same capability: with `x-ignore-shared` memory that lies in a shared file is skipped
//! by the one, and not expected by the other. The file is handed over open, because a jailed hypervisor can
//! neither open it nor start the helper that other ways need. A machine that was stopped before it was parked
//! would be restored stopped, whatever it is told meanwhile; so the migration stops it.

use std::os::fd::AsFd;

use serde_json::{Value, json};
use smolvm_model::engine::fd;

use super::qmp::{Qmp, QmpError};

/// What the hypervisor calls the file.
const NAME: &str = "devices";

/// Why a template could not be parked.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// The hypervisor would not.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// It began and failed.
    #[error("the hypervisor could not write the state of its devices")]
    Failed,
}

/// Writes the state of the devices and stops the machine. It does not run again.
pub fn park(qmp: &mut Qmp, devices: impl AsFd) -> Result<(), ParkError> {
    // `events` tells when a migration ends; without it one would have to ask again and again.
    qmp.execute("migrate-set-capabilities", Some(capabilities(&["x-ignore-shared", "events"])))?;
    // Unlike its counterpart below, `migrate` takes no number of a descriptor it was started with.
    qmp.give(NAME, devices.as_fd())?;
    qmp.execute("migrate", Some(json!({ "uri": format!("fd:{NAME}") })))?;
    loop {
        let (name, data) = qmp.event()?;
        match (name.as_str(), data.get("status").and_then(|status| status.as_str())) {
            ("MIGRATION", Some("completed")) => return Ok(()),
            ("MIGRATION", Some("failed" | "cancelled")) => return Err(ParkError::Failed),
            _ => {}
        }
    }
}

/// A command of the control socket, and what goes with it.
pub type Command = (&'static str, Value);

/// The commands that write the devices of a stopped machine into a file, which comes with the first of them as a
/// descriptor that is open for writing and not for reading; the second says whether it is done.
///
/// The hypervisor's name for it is one of its oldest. It goes past the memory whatever that is mapped from, and leaves
/// the machine fit to go on or to be saved again, which no migration of this version does for memory that is private.
pub fn save() -> [Command; 2] {
    [
        ("add-fd", json!({ "fdset-id": SAVE_SET })),
        ("xen-save-devices-state", json!({ "filename": format!("/dev/fdset/{SAVE_SET}"), "live": false })),
    ]
}

/// Closes what was handed over for that. A hypervisor does it only while its guest runs.
pub fn let_go() -> Command {
    ("remove-fd", json!({ "fdset-id": SAVE_SET }))
}

/// The number of the set that the file is in; those of the disks are 1, 2, and 101 and up.
const SAVE_SET: u32 = 9;

/// The command that tells where the guest's memory is in the hypervisor's.
pub fn locate() -> Command {
    ("human-monitor-command", json!({ "command-line": "gpa2hva 0" }))
}

/// What that answers: a sentence for people that ends with the address.
pub fn located(answer: &Value) -> Option<u64> {
    let word = answer.as_str()?.split_whitespace().next_back()?;
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// Tells a machine that waits for a state (`-incoming defer`) how it will come.
///
/// Not in one with what follows: QEMU reads its control socket byte by byte, 3 µs each, and these can be read while it is waited for.
pub fn expect(qmp: &mut Qmp) -> Result<(), QmpError> {
    qmp.begin("migrate-set-capabilities", Some(capabilities(&["x-ignore-shared"])))
}

/// Loads the state into a machine that expects it, and lets it run as soon as that is done.
///
/// A state that cannot be loaded ends the hypervisor.
pub fn restore(qmp: &mut Qmp) -> Result<(), QmpError> {
    // Together, for each answer that is waited for is one more round.
    qmp.begin("migrate-incoming", Some(json!({ "uri": format!("fd:{}", fd::DEVICES) })))?;
    qmp.begin("cont", None)?;
    qmp.finish()
}

fn capabilities(names: &[&str]) -> Value {
    let on: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": on })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_out_of_a_sentence() {
        assert_eq!(located(&json!("Host virtual address for 0x0 (ram) is 0x7f3a40000000\r\n")), Some(0x7f3a_4000_0000));
        for odd in
            [json!("Memory is not mapped at address 0x0\r\n"), json!(""), json!(7), json!("is 0xzz"), json!("is 0xfffffffffffffffff")]
        {
            assert_ne!(located(&odd), Some(0x7f3a_4000_0000), "{odd}");
        }
        assert_eq!(located(&json!("is 0xzz")), None);
    }
}
