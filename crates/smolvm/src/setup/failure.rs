//! Why a step of `setup` failed, as the library's error with the way out.

use smolvm_host::fsx::FsError;
use smolvm_host::image::{AptError, ImageError, ManifestError};
use smolvm_host::lock::LockError;
use smolvm_model::error_code::ErrorCode;

use crate::error::{Error, io_code};

/// The failure of one step.
pub(super) fn of(step: &str, e: ImageError) -> Error {
    let (code, hint) = judge(&e);
    let error = Error::new(code, format!("{step} could not be prepared"));
    let error = match hint {
        Some(hint) => error.hint(hint),
        None => error,
    };
    error.because(e)
}

/// Whether another apt holds the lock of our lists or our cache.
pub(super) fn is_apt_at_work(e: &ImageError) -> bool {
    // apt has one exit status for everything; the words are those of the C locale.
    matches!(e, ImageError::Apt(AptError::Failed { complaint }) if complaint.contains("Could not get lock"))
}

pub(crate) fn judge(e: &ImageError) -> (ErrorCode, Option<&'static str>) {
    const AGAIN: &str = "smolvm setup   (it goes on where it was)";
    match e {
        ImageError::NoSpace { .. } => (ErrorCode::ResourceExhausted, Some("free some space, then run it again: smolvm cleanup; df -h")),
        ImageError::Lock(lock) => by_lock(lock),
        ImageError::Fs(fs) => by_file(fs),
        ImageError::NoAgent => (ErrorCode::MissingDependency, Some("cargo xtask build   makes a smolvm that carries the agent")),
        ImageError::Apt(apt) => by_apt(apt),
        ImageError::Packages(_) => (ErrorCode::MissingDependency, Some("smolvm setup --check")),
        ImageError::Manifest(ManifestError::Newer { .. }) => (ErrorCode::Unsupported, Some("use the newer smolvm that made it")),
        ImageError::NotFound { .. } | ImageError::NoKernel => (ErrorCode::NotFound, Some(AGAIN)),
        ImageError::Exists { .. } => (ErrorCode::AlreadyExists, None),
        ImageError::Damaged { .. } | ImageError::WrongSize { .. } | ImageError::Odd { .. } | ImageError::Manifest(_) => {
            (ErrorCode::Internal, Some("smolvm setup --remove && smolvm setup"))
        }
        // Setting up asks no registry.
        ImageError::Registry(_)
        | ImageError::Document(_)
        | ImageError::Rootfs(_)
        | ImageError::Login { .. }
        | ImageError::Import(_)
        | ImageError::Helper(_)
        | ImageError::Archive(_)
        | ImageError::Nameless { .. }
        | ImageError::NotPulled { .. }
        | ImageError::Kernel(_)
        | ImageError::Initramfs(_)
        | ImageError::Minimal(_)
        | ImageError::Debian(_)
        | ImageError::Ext4(_)
        | ImageError::Disk(_) => (ErrorCode::Internal, Some(AGAIN)),
    }
}

fn by_lock(e: &LockError) -> (ErrorCode, Option<&'static str>) {
    match e {
        LockError::Busy { .. } => (ErrorCode::Busy, Some("another smolvm is preparing the same; try again when it has ended")),
        LockError::Io { source, .. } => (io_code(source), None),
    }
}

fn by_file(e: &FsError) -> (ErrorCode, Option<&'static str>) {
    let code = io_code(&e.source);
    (code, (code == ErrorCode::ResourceExhausted).then_some("free some space, then run it again"))
}

fn by_apt(e: &AptError) -> (ErrorCode, Option<&'static str>) {
    match e {
        AptError::NotDebian { .. } => (ErrorCode::Unsupported, Some("run smolvm on Debian 12")),
        AptError::OddPath { .. } => (ErrorCode::UsageError, Some("choose a plain path with --home")),
        AptError::NoKeyring => (ErrorCode::MissingDependency, Some("apt-get install --no-install-recommends debian-archive-keyring")),
        AptError::NoSources { .. } => {
            (ErrorCode::MissingDependency, Some("name a Debian mirror in /etc/apt/sources.list, then run smolvm setup again"))
        }
        AptError::NotSigned { .. } | AptError::WrongContent { .. } => {
            (ErrorCode::Refused, Some("name a mirror that carries Debian's own signatures in /etc/apt/sources.list"))
        }
        AptError::Unreachable { .. } => (ErrorCode::Internal, Some("apt-get update   shows why; then run smolvm setup again")),
        AptError::NoSpace { .. } => (ErrorCode::ResourceExhausted, Some("free some space, then run it again")),
        AptError::Failed { .. } | AptError::NoSuchPackage { .. } | AptError::Answer { .. } => {
            (ErrorCode::Internal, Some("apt-get update   shows why; then run smolvm setup again"))
        }
        AptError::Tool(_) => (ErrorCode::MissingDependency, Some("smolvm setup --check")),
        AptError::Fs(e) => by_file(e),
        AptError::Lock(e) => by_lock(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_common_trouble_has_a_code_and_a_way_out() {
        let full = || std::io::Error::from_raw_os_error(28);
        let table: [(ImageError, ErrorCode); 7] = [
            (ImageError::NoSpace { path: "/x".into(), needed_mib: 400, available_mib: 3 }, ErrorCode::ResourceExhausted),
            (ImageError::Fs(FsError { action: "write", path: "/x".into(), source: full() }), ErrorCode::ResourceExhausted),
            (ImageError::Lock(LockError::Busy { path: "/x".into() }), ErrorCode::Busy),
            (ImageError::NoAgent, ErrorCode::MissingDependency),
            (ImageError::Apt(AptError::NotDebian { id: "other".into() }), ErrorCode::Unsupported),
            (ImageError::Apt(AptError::NotSigned { complaint: "no".into() }), ErrorCode::Refused),
            (ImageError::Manifest(ManifestError::Newer { path: "/x".into(), found: 9, known: 1 }), ErrorCode::Unsupported),
        ];
        for (cause, code) in table {
            let error = of("kernel", cause);
            assert_eq!(error.code, code, "{}", error.one_line());
            assert!(error.recovery.is_some(), "{}", error.one_line());
        }
    }
}
