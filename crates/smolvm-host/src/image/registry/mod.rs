//! Images of registries, pulled.
//!
//! ```text
//!   reference ─► manifest ──(known? only the name is new)──► by-reference/
//!                   │
//!                   ├─► config, layers ─► blobs/partial/<digest> ─(digest compared)─► blobs/<digest>
//!                   └─► layers ─► tmp/…/image.ext4 ─► images/<digest>/ ─► by-manifest/, by-reference/
//! ```
//!
//! Archives come the same way from files: see `load`.
//!
//! Invariants: a name is written last, so what has one is whole; a pull that is killed leaves blobs, which the next one goes on from, and a
//! directory in `tmp/`, which whoever comes next removes.

mod archive;
mod blobs;
mod build;
mod holders;
mod import;
mod load;
mod logins;
mod pull;

pub use archive::save;
pub use holders::PullOptions;
pub use import::{ImportError, ImportOptions, Imported, Rootfs, Skipped, SkippedWhy, import};
pub(super) use import::{layer_of_tool, workdir_of};
pub use load::{ArchiveError, Loaded, load};
pub use logins::{Environment, Logins};
pub use pull::{Pulled, pull};
pub use smolvm_oci::document::{ChangeError, DocumentError, RunConfig, Step};
pub use smolvm_oci::layer::{EntryName, LayerError};
pub use smolvm_oci::registry::{Access, Cause, Proxies, RegistryError, Secret, Trust};
pub use smolvm_oci::rootfs::RootfsError;

#[cfg(test)]
mod tests;
