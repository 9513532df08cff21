//! The commands that put another layer over a disk that is in use, or others below it.
//!
//! ```text
//!   add        add-fd ×2 ─► the layer's file ─► the layer, over nothing yet        the guest runs meanwhile
//!   put on     what the guest writes goes into the new layer; the old one is reopened for reading only
//!   let go     the descriptors that were handed over: what is open stays open
//! ```
//!
//! Each descriptor goes with the `add-fd` that is sent after it. A layer whose descriptors are in a set is opened as
//! `/dev/fdset/N`; QEMU duplicates from the set what has the rights that it wants at the moment.

use serde_json::{Value, json};
use smolvm_model::engine::DiskNode;

use super::migration::Command;

/// Takes a descriptor into a layer's set.
pub fn take(node: DiskNode) -> Command {
    ("add-fd", json!({ "fdset-id": node.set() }))
}

/// Closes what was handed over for a layer. A hypervisor does that only while its guest runs.
pub fn let_go(node: DiskNode) -> Command {
    ("remove-fd", json!({ "fdset-id": node.set() }))
}

/// Opens an empty layer that is to be written to, over nothing yet. Its set has a descriptor for both and one for reading.
pub fn add_writable(node: DiskNode) -> [Command; 2] {
    let file = json!({
        "driver": "file", "node-name": node.file(), "filename": format!("/dev/fdset/{}", node.set()),
        "discard": "unmap", "auto-read-only": true,
    });
    // No backing file, whatever the header says; the next command gives it one.
    [("blockdev-add", file), ("blockdev-add", writable(node, &Value::Null))]
}

/// Puts it over the layer that was the highest, which must be able to be opened for reading.
pub fn put_on(node: DiskNode, over: DiskNode) -> Command {
    ("blockdev-snapshot", json!({ "node": over.to_string(), "overlay": node.to_string() }))
}

/// Opens a layer that is only read, over another.
pub fn add_below(node: DiskNode, over: DiskNode) -> [Command; 2] {
    let file = json!({
        "driver": "file", "node-name": node.file(), "filename": format!("/dev/fdset/{}", node.set()),
        "read-only": true, "locking": "off",
    });
    let layer = json!({
        "driver": "qcow2", "node-name": node.to_string(), "file": node.file(), "backing": over.to_string(), "read-only": true,
    });
    [("blockdev-add", file), ("blockdev-add", layer)]
}

/// Has the layer that is written to read what it does not have from another one, which reads the same.
pub fn put_over(node: DiskNode, below: DiskNode) -> Command {
    ("blockdev-reopen", json!({ "options": [writable(node, &below.to_string().into())] }))
}

/// Closes a layer that nothing uses.
pub fn forget(node: DiskNode) -> [Command; 2] {
    [node.to_string(), node.file()].map(|name| ("blockdev-del", json!({ "node-name": name })))
}

fn writable(node: DiskNode, backing: &Value) -> Value {
    json!({ "driver": "qcow2", "node-name": node.to_string(), "file": node.file(), "backing": backing, "discard": "unmap" })
}
