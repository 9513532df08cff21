//! What guests boot: kernel, initramfs, root images, data disks; made by `setup`, found by every start.
//!
//! ```text
//!   the host's apt sources ──(Debian's keyring only)──► apt/ ──► packages, signature-checked
//!                                                                  │
//!     kernel/    cloud kernel ──► vmlinux + modules ◄──────────────┤
//!     initramfs  modules + embedded agent ──► one cpio archive     │
//!     minimal    busybox ──► ext4  ◄───────────────────────────────┤
//!     debian     mmdebstrap ──► ext4 ◄─────────────────────────────┘
//!     disk       an empty ext4, copied sparsely for each sandbox
//!
//!   cache/  images/<digest>/{image.ext4,manifest.json}  images/by-name/<name>
//!           kernels/<release>-<digest>/{vmlinux,modules/,manifest.json}  kernels/current
//!           initramfs/<digest>/{initramfs.cpio,manifest.json}            initramfs/current
//!           templates/<key>/{memory,devices,manifest.json}
//!           (snapshots lie elsewhere, for they cannot be made again: see `snapshot`)
//!           blobs/<digest>                 parts of images of registries
//!           disks/  apt/  locks/  tmp/<artefact>.<random>/
//! ```
//!
//! Invariants: an artefact is built in `tmp/` under its lock and published by one rename, so what has
//! its final name is whole; a published file is never changed; nothing is installed on the host, and
//! no maintainer script of a package runs outside the image it is for.

mod apt;
pub(crate) mod block_digest;
mod boot;
mod build;
mod checks;
mod checksum;
mod cpio;
mod debian;
mod digest;
mod disk;
mod error;
mod ext4;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod initramfs;
mod kernel;
mod layout;
mod listing;
mod manifest;
mod minimal;
mod namespace;
mod packages;
mod progress;
mod reference;
pub mod registry;
mod remove;
mod signature;
pub mod snapshot;
mod store;
pub mod template;
pub mod unused;
mod workdir;

pub use apt::{AptError, SkipReason, SourceProblem};
pub use boot::{BootFiles, boot_files, boot_files_with};
pub use build::{BuiltIn, Renew, prepare_image, rehearsal};
pub use checks::{Check, CheckStatus, checks, verify_all};
pub use debian::{DebianError, DebianNameError, DebianRecipe, PackageName, SuiteName, debootstrap, host_suite};
pub use digest::{Digest, DigestError};
pub use disk::{DataDisk, DiskError, blank, make_data_disk};
pub use error::ImageError;
pub use ext4::Ext4Error;
pub use guard::{ImagesInUse, is_linked, using};
pub use initramfs::InitramfsError;
pub use kernel::{
    BzImageError, ElfError, Group, Kernel, KernelError, Lz4Error, Module, ModulesError, PayloadFormat, current_kernel, prepare_kernel,
};
pub use manifest::ManifestError;
pub use minimal::MinimalError;
pub use packages::{PackageError, Requirement, When, install_packages, missing_packages, required_tools};
pub use progress::{Progress, Report};
pub use reference::{Leads, NamedImage, Pointer, broken_references, name_image, pointers, references, resolve_reference, unname};
pub use remove::{Held, hold, remove, sweep};
pub use store::{Image, LayerBlob, Origin, is_here, list, remove_all, resolve, resolve_digest, verify};
