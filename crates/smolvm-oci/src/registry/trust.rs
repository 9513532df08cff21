//! By whose word a registry is who it says: the host's authorities, and those that somebody named for this registry alone.
//!
//! ```text
//!   bundle                                /etc/ssl/certs/ca-certificates.crt, or what SSL_CERT_FILE names
//!   <directory>/<host>[:<port>]/*.crt     as docker and podman have it, beside the bundle
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use smolvm_model::reference::Registry;
use ureq::tls::{Certificate, PemItem, parse_pem};

use super::error::RegistryError;

/// Debian's bundle of certificates, and that of many others.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Longest file of certificates that is read; Debian's bundle has 220 KB.
const MAX_FILE: u64 = 16 << 20;

/// Where certificates of authorities are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Those of the host: one file.
    pub bundle: PathBuf,
    /// Directories with a directory for a registry each, whose `*.crt` hold for that registry.
    pub directories: Vec<PathBuf>,
}

impl Default for Trust {
    fn default() -> Self {
        Self { bundle: BUNDLE.into(), directories: Vec::new() }
    }
}

impl Trust {
    /// Whether somebody named an authority for this registry.
    pub fn names(&self, registry: &Registry) -> bool {
        self.own_files(registry).is_ok_and(|files| !files.is_empty())
    }

    /// The authorities a registry may be known by. A host without a bundle is in order where the registry has its own.
    pub(super) fn roots(&self, registry: &Registry) -> Result<Vec<Certificate<'static>>, RegistryError> {
        let mut own = Vec::new();
        for file in self.own_files(registry)? {
            own.extend(read(&file)?);
        }
        match read(&self.bundle) {
            Ok(bundle) => own.extend(bundle),
            Err(_) if !own.is_empty() => {}
            Err(e) => return Err(e),
        }
        Ok(own)
    }

    fn own_files(&self, registry: &Registry) -> Result<Vec<PathBuf>, RegistryError> {
        let mut found = Vec::new();
        for directory in &self.directories {
            let directory = directory.join(registry.as_str());
            let entries = match std::fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
                Err(source) => return Err(RegistryError::NoCertificates { path: directory, source }),
            };
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            found.extend(paths.filter(|path| path.extension().is_some_and(|extension| extension == "crt")));
        }
        found.sort();
        Ok(found)
    }
}

/// The certificates of a file; one without any is none.
fn read(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let unreadable = |source| RegistryError::NoCertificates { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)).map_err(unreadable)?;
    let certificates: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() { Err(unreadable(io::ErrorKind::InvalidData.into())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_for_a_registry_is_for_that_one_and_its_port() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("near.example:5000");
        std::fs::create_dir(&directory).unwrap();
        for name in ["ca.crt", "client.cert", "client.key"] {
            std::fs::write(directory.join(name), "no certificate").unwrap();
        }
        let trust = Trust { bundle: dir.path().join("none"), directories: vec![dir.path().join("gone"), dir.path().to_owned()] };
        let registry = |text: &str| text.parse::<Registry>().unwrap();
        assert!(trust.names(&registry("near.example:5000")));
        assert!(!trust.names(&registry("near.example")) && !trust.names(&registry("docker.io")));
        // A file that says nothing is told by its name, and so is a bundle that is not there.
        let told = |name: &str| match trust.roots(&registry(name)) {
            Err(RegistryError::NoCertificates { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("near.example:5000"), directory.join("ca.crt"));
        assert_eq!(told("docker.io"), dir.path().join("none"));
    }
}
