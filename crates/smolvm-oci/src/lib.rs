//! Images of the container world: what they are called, what they consist of, and the file system that their layers come to.
//!
//! ```text
//!   reference ──► registry ──► index ─► manifest ─► config          (documents: read with caps, checked against their digests)
//!                    │                     │
//!                    └──► blobs ◄──────────┘
//!                           │ layers
//!                           ▼
//!                 layer ──► tree ──► ext4 file                        (nothing is unpacked on the host)
//! ```
//!
//! Invariants: nobody is trusted, neither a registry nor a layer; every number a stranger names has a cap before it becomes memory, disk or
//! time; the same layers give the same bytes on every host. This crate works on files and sockets it is given or named; where files lie, and
//! what has which name, is decided above.

pub mod archive;
mod capped;
pub mod digest;
pub mod document;
pub mod ext4;
pub mod layer;
pub mod registry;
pub mod rootfs;
mod stretches;
pub mod tree;

pub use capped::Capped;
pub use digest::Digest;
pub use stretches::Stretches;
