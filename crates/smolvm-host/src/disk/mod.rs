//! The data disk of a sandbox as files, which sandboxes that came from one share.
//!
//! ```text
//!   data.img     the lowest: the disk's bytes as they are            one file, and a name of it for each that uses it
//!   data.img.1   what was written over it                            (hard links: the kernel counts who uses what)
//!   data.img.4   what was written over both: the one that is written to, and has this name only
//! ```
//!
//! A layer that is shared is a file with several names, one in the directory of each sandbox and snapshot that reads it.
//! Nobody has to write down who uses it, and nothing has to be put right after a kill: a directory that goes takes its
//! name along, and the blocks go with the last one.
//!
//! Invariants: a file with more than one name is never opened for writing ([`Chain::is_shared`]); it gets another name only
//! when the kernel says that nobody has it open for writing ([`lease`]), whatever a hypervisor says; whichever of its files
//! are named at the moment of a kill, a chain reads the same.
//!
//! Where the file system shares blocks itself, none of this is needed and the highest file is cloned ([`can_clone`]).

mod chain;
pub mod lease;
mod merge;
mod open;
pub mod qcow2;
mod share;

pub use chain::Chain;
pub use open::{OpenDisk, open_layer, open_writable_layer};
pub use share::{add_layer, can_clone, merge_layers, remove_layers, share};
