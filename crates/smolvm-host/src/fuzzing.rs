//! The private parsers of this crate, for the targets in `fuzz/`.
//!
//! A feature and not merely a hidden module: without it none of this exists, so nothing can come to lean on it.
//! What stands here takes bytes or text and gives values; the types stay as private as they are.

pub use crate::engine::fuzzing as engine;
pub use crate::image::fuzzing as image;
pub use crate::net::fuzzing as net;
pub use crate::store::fuzzing as store;
