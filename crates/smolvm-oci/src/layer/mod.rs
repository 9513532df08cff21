//! A layer as a stream of members: what each is, and its content, in the order in which they come.
//!
//! ```text
//!   blob ──► decompress ──► reader: header ─► pax, long names ─► sparse map ─► Member + content
//!            gzip, zstd,            512 bytes   ≤ 1 MiB          ≤ 64 Ki parts
//!            or neither
//! ```
//!
//! [`LayerWriter`] is the way back, for a tree that becomes a layer here.
//!
//! Invariants: nothing that a header says is a length of memory; a member's name is bytes and no path of this host; what does not fit the
//! format is an error that names the member, and ends the reading.

mod attributes;
mod decompress;
mod error;
mod member;
mod pax;
mod reader;
mod sparse;
mod write;

pub use attributes::Attributes;
pub use decompress::{Decompressed, Packing, decompress};
pub use error::{EntryName, LayerError};
pub use member::{Kind, Member, Meta, Part, Time};
pub use pax::stays_behind;
pub use reader::Layer;
pub use sparse::MAX_WRITTEN_PARTS;
pub use write::{LayerWriter, WriteError};
