//! Why there is no kernel, no initramfs or no image.

use std::path::PathBuf;

use super::apt::AptError;
use super::debian::DebianError;
use super::disk::DiskError;
use super::ext4::Ext4Error;
use super::initramfs::InitramfsError;
use super::kernel::KernelError;
use super::manifest::ManifestError;
use super::minimal::MinimalError;
use super::packages::PackageError;
use super::registry::{ArchiveError, ImportError};
use crate::effect::Fault;
use crate::fsx::FsError;
use crate::lock::LockError;
use crate::proc::tool::ToolError;
use smolvm_oci::document::DocumentError;
use smolvm_oci::registry::{LoginError, RegistryError};
use smolvm_oci::rootfs::RootfsError;

/// What can go wrong with what guests boot.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image has this name.
    #[error("there is no image `{name}`")]
    NotFound {
        /// The name (or digest) that was asked for.
        name: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// The name is taken.
    #[error("there is a snapshot `{name}` already")]
    Exists {
        /// The name.
        name: String,
    },
    /// A file of ours says something that nothing of ours would have written there.
    #[error("{} is not what smolvm writes there: {what}", path.display())]
    Odd {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// `setup` has not prepared a kernel.
    #[error("no kernel has been prepared")]
    NoKernel,
    /// This program carries no guest agent.
    #[error("this smolvm was built without the guest agent")]
    NoAgent,
    /// A published file does not have the content its address names.
    #[error("{} is damaged: it has {actual}, not {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest it was published under.
        expected: super::Digest,
        /// The digest it has now.
        actual: super::Digest,
    },
    /// A published file is gone or has another length.
    #[error("{} is damaged: it should have {expected} bytes", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Bytes it was published with.
        expected: u64,
    },
    /// There is not enough room for a build.
    #[error("{} has {available_mib} MiB free, and {needed_mib} MiB are needed", path.display())]
    NoSpace {
        /// A directory on the full file system.
        path: PathBuf,
        /// What the build needs.
        needed_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// The packages did not arrive.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The kernel could not be taken out of its package.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs could not be put together.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The `minimal` image could not be built.
    #[error(transparent)]
    Minimal(#[from] MinimalError),
    /// The `debian` image could not be built.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A file system could not be made.
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    /// A data disk could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Packages could not be installed on the host.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// A registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What describes it cannot be used.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Its layers are refused, or cannot be read.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A file of logins cannot be used.
    #[error("the logins of {} cannot be used", path.display())]
    Login {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: LoginError,
    },
    /// A file system cannot become an image.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A credential helper could not be run.
    #[error("the credential helper could not be run")]
    Helper(#[source] ToolError),
    /// An archive is not taken.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// An archive does not say what its image is called.
    #[error("{} does not say what its image is called", path.display())]
    Nameless {
        /// The archive.
        path: PathBuf,
    },
    /// It was made on this host, and there is nothing of it that another could read.
    #[error("the image \"{name}\" was made on this host")]
    NotPulled {
        /// Its name.
        name: String,
    },
    /// A manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Another command is building the same, or the lock cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
}

impl From<Fault> for ImageError {
    fn from(fault: Fault) -> Self {
        Self::Fs(fault.into())
    }
}

impl ImageError {
    /// Whether a full disk (or quota) is the reason, whoever met it.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Apt(AptError::NoSpace { .. }) | Self::Ext4(Ext4Error::NoSpace { .. }) => true,
            Self::Registry(RegistryError::Write { source, .. }) | Self::Rootfs(RootfsError::Write(source)) => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Fs(error) | Self::Apt(AptError::Fs(error)) | Self::Ext4(Ext4Error::Fs(error)) => error.is_full(),
            _ => false,
        }
    }

    /// The program whose absence is the reason.
    pub fn missing_tool(&self) -> Option<&str> {
        let (Self::Apt(AptError::Tool(error)) | Self::Ext4(Ext4Error::Tool(error)) | Self::Debian(DebianError::Tool(error))) = self else {
            return match self {
                Self::Debian(DebianError::MissingTool { tool, .. }) => Some(tool),
                _ => None,
            };
        };
        match error {
            ToolError::Missing { program } => Some(program),
            _ => None,
        }
    }
}
