//! The state of a machine's devices, without its memory: written when a template is parked, loaded by each fork.
//!
//! ```text
//!   park:     migrate to a file ─► "completed": the machine has stopped, its memory is in the file it is mapped from
//!   restore:  migrate-incoming from fd:DEVICES, cont: it runs as soon as it is loaded
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

/// Loads the state into a machine that waits for it (`-incoming defer`), and lets it run as soon as that is done.
///
/// A state that cannot be loaded ends the hypervisor.
pub fn restore(qmp: &mut Qmp) -> Result<(), QmpError> {
    // Together: QEMU reads its control socket byte by byte, and each answer that is waited for is one more round.
    qmp.execute_all(&[
        ("migrate-set-capabilities", Some(capabilities(&["x-ignore-shared"]))),
        ("migrate-incoming", Some(json!({ "uri": format!("fd:{}", fd::DEVICES) }))),
        ("cont", None),
    ])
}

fn capabilities(names: &[&str]) -> Value {
    let on: Vec<Value> = names.iter().map(|name| json!({ "capability": name, "state": true })).collect();
    json!({ "capabilities": on })
}
