//! The JSON documents of an image: index, manifest, configuration; OCI's and Docker's second schema, which differ in their names only.
//!
//! ```text
//!   index ──(platform of this machine)──► manifest ──► configuration: how to run it, digests of unpacked layers
//!                                            └───────► layers: digest and size of each blob
//! ```
//!
//! They are read from bytes whose digest was compared before, with a cap on their length and on every list in them. What is not known is
//! ignored; what contradicts itself is refused.

mod change;
mod config;
mod made;
mod manifest;

pub use change::ChangeError;
pub use config::{Config, RunConfig, Step};
pub use made::{Made, SingleLayer};
pub use manifest::{Descriptor, Manifest, Top, Unread, media};

/// Longest index or manifest: what registries take.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Longest configuration.
pub const MAX_CONFIG: u64 = 4 << 20;
/// Most layers: a kernel's overlay has 128 at most, and some tools squash above that.
pub const MAX_LAYERS: usize = 256;
/// Most manifests of an index.
const MAX_MANIFESTS: usize = 1024;
/// Largest layer as it lies in a registry.
pub const MAX_BLOB: u64 = 64 << 30;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not what its type says.
    #[error("the {what} of the image is malformed")]
    Malformed {
        /// Index, manifest or configuration.
        what: &'static str,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// Longer than any.
    #[error("the {what} of the image has {size} bytes")]
    TooLong {
        /// Index, manifest or configuration.
        what: &'static str,
        /// Its length.
        size: u64,
    },
    /// More entries than any.
    #[error("the {what} of the image lists {count} entries")]
    TooMany {
        /// Index, manifest or configuration.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A blob that is larger than is taken.
    #[error("the blob {digest} has {size} bytes, which is more than is taken")]
    BlobSize {
        /// Which.
        digest: crate::Digest,
        /// What the manifest says.
        size: u64,
    },
    /// A kind of image that cannot be run.
    #[error("{media_type:?} is no image that can be run")]
    Kind {
        /// What it says it is.
        media_type: String,
    },
    /// Made for other machines only.
    #[error("the image is not made for {wanted}; it is for {}", available.join(", "))]
    NoPlatform {
        /// What this machine is.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Manifest and configuration do not agree.
    #[error("the image has {layers} layers, and its configuration names {diff_ids}")]
    Layers {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A value of the configuration that no command can be given.
    #[error("the image's configuration has a {field} that no command can be given")]
    Value {
        /// Which.
        field: &'static str,
    },
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str, cap: u64) -> Result<T, DocumentError> {
    if bytes.len() as u64 > cap {
        return Err(DocumentError::TooLong { what, size: bytes.len() as u64 });
    }
    serde_json::from_slice(bytes).map_err(|source| DocumentError::Malformed { what, source })
}
