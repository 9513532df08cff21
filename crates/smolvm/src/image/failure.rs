//! What a failed operation on images means to a caller, and the way out.

use smolvm_host::image::registry::{ArchiveError, Cause, DocumentError, ImportError, LayerError, RegistryError, RootfsError};
use smolvm_host::image::{DebianError, ImageError};
use smolvm_host::lock::LockError;
use smolvm_host::proc::tool::ToolError;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::reference::Reference;

use crate::error::{Error, io_code};

const FREE_SPACE: &str = "free some space: smolvm prune";

/// A pull that failed.
pub(super) fn not_pulled(name: &Reference, e: ImageError) -> Error {
    const AGAIN: &str = "pull again: what has come is kept";
    let (code, hint) = match &e {
        e if e.is_disk_full() => (ErrorCode::ResourceExhausted, Some(format!("{FREE_SPACE}; then {AGAIN}"))),
        ImageError::Lock(LockError::Busy { .. }) => {
            (ErrorCode::Busy, Some("somebody pulls the same image; try again when that has ended".to_owned()))
        }
        e => match meaning(e) {
            (ErrorCode::Internal, None) => (ErrorCode::Internal, Some(AGAIN.to_owned())),
            meant => meant,
        },
    };
    explained(Error::new(code, format!("the image \"{name}\" could not be pulled")), hint, e)
}

/// An archive that could not be read or written.
pub(super) fn not_carried(file: &std::path::Path, e: ImageError) -> Error {
    let (code, hint) = meaning(&e);
    explained(Error::new(code, format!("the archive {} could not be used", file.display())), hint, e)
}

/// A file system that could not become an image.
pub(super) fn not_imported(what: &str, e: ImageError) -> Error {
    let (code, hint) = match &e {
        ImageError::Import(e) => of_import(what, e),
        ImageError::Fs(fs) if fs.source.kind() == std::io::ErrorKind::NotFound => (ErrorCode::NotFound, None),
        ImageError::Fs(fs) if !fs.is_full() => (io_code(&fs.source), None),
        e if e.is_disk_full() => meaning(e),
        ImageError::Rootfs(e) => of_own_rootfs(e),
        ImageError::Lock(e) => of_own_lock(e),
        // Who gave an image can mend it; a file system of this host has nobody else.
        e => (meaning(e).0, None),
    };
    explained(Error::new(code, format!("{what} could not be imported")), hint, e)
}

fn of_import(what: &str, e: &ImportError) -> (ErrorCode, Option<String>) {
    match e {
        ImportError::Packing { tool } => (ErrorCode::UsageError, Some(format!("{tool} -dc FILE | smolvm image import - --name NAME"))),
        ImportError::IsImage => (ErrorCode::UsageError, Some(format!("smolvm image load {what}"))),
        ImportError::Empty
        | ImportError::TooLong { .. }
        | ImportError::Unpacked { .. }
        | ImportError::Whiteout { .. }
        | ImportError::Xattr { .. }
        | ImportError::Deep { .. } => (ErrorCode::Refused, None),
        ImportError::Changed { .. } => (ErrorCode::Busy, Some("try again when nobody writes to it".to_owned())),
        ImportError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => (
            ErrorCode::PermissionDenied,
            Some("as somebody who may read it: tar -C DIR -c . | smolvm image import - --name NAME".to_owned()),
        ),
        ImportError::Read { source, .. } => (io_code(source), None),
    }
}

/// A file system of this host: whoever reads this is the one to mend it.
fn of_own_rootfs(e: &RootfsError) -> (ErrorCode, Option<String>) {
    let refused = |hint: &str| (ErrorCode::Refused, Some(hint.to_owned()));
    match e {
        RootfsError::Layer { source, .. } => match source {
            LayerError::Read { .. }
            | LayerError::Truncated { .. }
            | LayerError::Header { .. }
            | LayerError::Number { .. }
            | LayerError::Pax { .. }
            | LayerError::Sparse { .. } => refused("the archive is damaged, was never whole, or is none: make it anew"),
            LayerError::HeaderSize { .. } | LayerError::Xattr { .. } => {
                refused("take the attribute away (setfattr -x), or leave the entry out; then try again")
            }
            LayerError::Kind { .. } | LayerError::Target { .. } => refused("leave the entry out; then try again"),
        },
        RootfsError::Refused { .. } | RootfsError::Ext4(_) => refused("change it or leave it out; then try again"),
        RootfsError::TooMuch { .. } | RootfsError::ImageSize { .. } => refused("leave something out; then try again"),
        RootfsError::Digest { .. } => (ErrorCode::Busy, Some("somebody changed what smolvm had written; try again".to_owned())),
        RootfsError::Open { source, .. } | RootfsError::Write(source) => (io_code(source), None),
    }
}

fn of_own_lock(e: &LockError) -> (ErrorCode, Option<String>) {
    match e {
        LockError::Busy { .. } => {
            let hint = "somebody makes an image of the same name, or removes images; try again when that has ended";
            (ErrorCode::Busy, Some(hint.to_owned()))
        }
        LockError::Io { source, .. } => (io_code(source), None),
    }
}

/// A Debian that could not be made.
pub(super) fn not_bootstrapped(e: ImageError) -> Error {
    let is_disk_full = e.is_disk_full();
    let (code, hint) = match &e {
        ImageError::Debian(DebianError::MissingTool { package, .. }) => {
            (ErrorCode::MissingDependency, Some(format!("apt-get install --no-install-recommends {package}")))
        }
        ImageError::Debian(DebianError::NoUserNamespace { .. }) => (
            ErrorCode::PermissionDenied,
            Some("apt-get install uidmap; and a line for this user in /etc/subuid and in /etc/subgid".to_owned()),
        ),
        ImageError::Debian(_) => (ErrorCode::Refused, Some("look at the names of release and packages".to_owned())),
        ImageError::Rootfs(e) if !is_disk_full => of_own_rootfs(e),
        ImageError::Apt(_) | ImageError::NoSpace { .. } | ImageError::Lock(_) | ImageError::Fs(_) => {
            let (code, hint) = crate::setup::judge(&e);
            (code, hint.map(str::to_owned))
        }
        e => meaning(e),
    };
    explained(Error::new(code, "the Debian could not be made"), hint, e)
}

fn explained(error: Error, hint: Option<String>, cause: ImageError) -> Error {
    match hint {
        Some(hint) => error.hint(hint).because(cause),
        None => error.because(cause),
    }
}

/// Another operation that failed.
pub(super) fn unusable(e: ImageError) -> Error {
    let code = meaning(&e).0;
    Error::new(code, "the images cannot be used").hint("smolvm doctor").because(e)
}

fn meaning(e: &ImageError) -> (ErrorCode, Option<String>) {
    if e.is_disk_full() {
        return (ErrorCode::ResourceExhausted, Some(FREE_SPACE.to_owned()));
    }
    match e {
        ImageError::Registry(e) => of_registry(e),
        ImageError::Document(DocumentError::NoPlatform { .. }) => (ErrorCode::Unsupported, None),
        ImageError::Document(_)
        | ImageError::Rootfs(
            RootfsError::Refused { .. }
            | RootfsError::Layer { .. }
            | RootfsError::Digest { .. }
            | RootfsError::TooMuch { .. }
            | RootfsError::ImageSize { .. }
            | RootfsError::Ext4(_),
        ) => (ErrorCode::Refused, Some("the image is not what an image should be; whoever made it has to mend it".to_owned())),
        ImageError::Login { path, .. } => {
            (ErrorCode::PermissionDenied, Some(format!("log in again with `podman login` or `docker login`, or mend {}", path.display())))
        }
        ImageError::Helper(ToolError::Missing { program }) => {
            (ErrorCode::MissingDependency, Some(format!("a file of logins names {program}: install it, or put it where PATH leads")))
        }
        ImageError::Helper(_) => (ErrorCode::PermissionDenied, Some("log in again with `podman login` or `docker login`".to_owned())),
        ImageError::Archive(ArchiveError::OtherContent { .. }) => {
            (ErrorCode::Refused, Some("give it another name: smolvm image load FILE --name NAME".to_owned()))
        }
        ImageError::Archive(_) => {
            (ErrorCode::Refused, Some("the archive is damaged, or was never whole; whoever made it has to mend it".to_owned()))
        }
        ImageError::Nameless { .. } => (ErrorCode::UsageError, Some("smolvm image load FILE --name NAME".to_owned())),
        ImageError::NotPulled { .. } => (ErrorCode::Unsupported, Some("only images of registries and archives can be saved".to_owned())),
        ImageError::Odd { .. } => (ErrorCode::Refused, None),
        ImageError::Lock(e) => of_own_lock(e),
        ImageError::Rootfs(RootfsError::Open { .. } | RootfsError::Write(_))
        | ImageError::NotFound { .. }
        | ImageError::Exists { .. }
        | ImageError::NoKernel
        | ImageError::NoAgent
        | ImageError::Damaged { .. }
        | ImageError::WrongSize { .. }
        | ImageError::NoSpace { .. }
        | ImageError::Apt(_)
        | ImageError::Kernel(_)
        | ImageError::Initramfs(_)
        | ImageError::Minimal(_)
        | ImageError::Debian(_)
        | ImageError::Ext4(_)
        | ImageError::Disk(_)
        | ImageError::Packages(_)
        | ImageError::Import(_)
        | ImageError::Manifest(_)
        | ImageError::Fs(_) => (ErrorCode::Internal, None),
    }
}

fn of_registry(e: &RegistryError) -> (ErrorCode, Option<String>) {
    match e {
        RegistryError::NotFound { .. } => (ErrorCode::NotFound, Some("look at the name and the tag; private ones need a login".to_owned())),
        RegistryError::Denied { registry, known, .. } => {
            let hint = if *known {
                format!("log in again: docker login {registry}")
            } else {
                format!("look at the name; or log in: docker login {registry}")
            };
            (ErrorCode::PermissionDenied, Some(hint))
        }
        RegistryError::TooManyRequests { registry } => {
            (ErrorCode::Busy, Some(format!("try again later; with a login one may ask more often: docker login {registry}")))
        }
        RegistryError::Unreachable { cause: Cause::Timeout, .. } => {
            (ErrorCode::Timeout, Some("pull again: what has come is kept".to_owned()))
        }
        RegistryError::Unreachable { cause, .. } if cause.is_authority_itself() => {
            let hint = "it shows an authority's certificate as its own: have one made with basicConstraints=CA:FALSE, or have the authority sign one";
            (ErrorCode::Refused, Some(hint.to_owned()))
        }
        RegistryError::Unreachable { registry, cause: Cause::Tls(_) } => {
            let hint = format!("if it is yours: put its authority's certificate into /etc/containers/certs.d/{registry}/ca.crt");
            (ErrorCode::Refused, Some(hint))
        }
        RegistryError::Unreachable { cause: Cause::Proxy, .. } => (
            ErrorCode::Unreachable,
            Some("look at HTTPS_PROXY: http://[USER:PASSWORD@]HOST:PORT; NO_PROXY names who is reached without".to_owned()),
        ),
        RegistryError::Unreachable { .. } | RegistryError::Status { .. } => {
            (ErrorCode::Unreachable, Some("look at the network and the proxy; then pull again: what has come is kept".to_owned()))
        }
        RegistryError::NoCertificates { .. } => {
            (ErrorCode::MissingDependency, Some("mend that file; Debian's own come with: apt-get install ca-certificates".to_owned()))
        }
        RegistryError::Digest { .. } | RegistryError::Length { .. } | RegistryError::TooLong { .. } => {
            (ErrorCode::Refused, Some("the registry sends something else than it says; nothing of it was kept".to_owned()))
        }
        RegistryError::Challenge { .. } => (ErrorCode::Unsupported, None),
        RegistryError::Write { .. } => (ErrorCode::Internal, None),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use smolvm_host::image::registry::EntryName;
    use smolvm_model::reference::Registry;

    use super::*;

    fn layer(source: LayerError) -> ImageError {
        RootfsError::Layer { layer: 1, source }.into()
    }

    #[test]
    fn whoever_imports_is_told_what_to_do_and_not_what_helps_a_pull() {
        let entry = || EntryName::of(b"a");
        for (e, code, word) in [
            (layer(LayerError::Xattr { entry: entry(), name: "user.a".to_owned() }), ErrorCode::Refused, "setfattr"),
            (layer(LayerError::Truncated { entry: entry() }), ErrorCode::Refused, "damaged"),
            (RootfsError::TooMuch { layer: 1, entry: entry() }.into(), ErrorCode::Refused, "leave something out"),
            (RootfsError::ImageSize { bytes: 2, limit: 1 }.into(), ErrorCode::Refused, "leave something out"),
            (LockError::Busy { path: PathBuf::from("/a") }.into(), ErrorCode::Busy, "removes images"),
            (ImageError::NoSpace { path: PathBuf::from("/a"), needed_mib: 2, available_mib: 1 }, ErrorCode::ResourceExhausted, "prune"),
        ] {
            let told = not_imported("/a", e);
            let hint = told.recovery.as_deref().unwrap();
            assert_eq!(told.code, code, "{told:?}");
            assert!(hint.contains(word) && !hint.contains("pull") && !hint.contains("whoever"), "{told:?}");
        }
        let damaged = not_imported("/a", ImageError::WrongSize { path: PathBuf::from("/a"), expected: 1 });
        assert_eq!((damaged.code, damaged.recovery), (ErrorCode::Internal, None));
    }

    #[test]
    fn only_a_pull_can_be_pulled_again() {
        let name = Reference::parse("a", &Registry::default()).unwrap();
        let odd = || ImageError::WrongSize { path: PathBuf::from("/a"), expected: 1 };
        let full = || ImageError::NoSpace { path: PathBuf::from("/a"), needed_mib: 2, available_mib: 1 };
        let busy = || ImageError::Lock(LockError::Busy { path: PathBuf::from("/a") });
        let refused = || ImageError::Rootfs(RootfsError::ImageSize { bytes: 2, limit: 1 });
        for (told, word) in [
            (not_pulled(&name, odd()), "what has come is kept"),
            (not_pulled(&name, full()), "what has come is kept"),
            (not_pulled(&name, busy()), "pulls the same image"),
        ] {
            assert!(told.recovery.as_ref().is_some_and(|hint| hint.contains(word)), "{told:?}");
        }
        let file = std::path::Path::new("/a");
        let others = [odd(), full(), busy(), refused()].map(|e| not_carried(file, e)).into_iter();
        for told in others.chain([full(), busy(), refused()].map(not_bootstrapped)) {
            assert!(!told.recovery.as_ref().is_some_and(|hint| hint.contains("pull")), "{told:?}");
        }
        assert!(not_carried(file, busy()).recovery.unwrap().contains("removes images"));
        assert!(not_bootstrapped(refused()).recovery.unwrap().contains("leave something out"));
    }

    /// No second try makes it smaller.
    #[test]
    fn an_image_that_is_larger_than_any_is_refused() {
        let told = not_pulled(&Reference::parse("a", &Registry::default()).unwrap(), RootfsError::ImageSize { bytes: 2, limit: 1 }.into());
        assert_eq!((told.code, told.recovery.unwrap().contains("pull again")), (ErrorCode::Refused, false));
    }
}
