//! A certificate authority of a test's own, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::prerequisite;

/// An authority, and the directory in which everything of it lies.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
}

/// A certificate and its key, both files.
#[derive(Debug, Clone)]
pub struct Certified {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one in this directory, which exists.
    pub fn new(directory: &Path) -> Self {
        prerequisite::programs(&["openssl"]);
        let authority = Self { directory: directory.to_owned() };
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=authority -keyout ca.key -out ca.crt";
        authority.openssl(words);
        authority
    }

    /// Its own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A certificate for these: `IP:127.0.0.1,DNS:registry.test`.
    pub fn certify(&self, name: &str, alternatives: &str) -> Certified {
        let extensions = self.directory.join(format!("{name}.ext"));
        std::fs::write(&extensions, format!("subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\n")).expect("a file of our own");
        self.openssl(&format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile {name}.ext -out {name}.crt"
        ));
        self.certified(name)
    }

    /// One that certifies itself, as the guides of registries have it.
    pub fn self_signed(directory: &Path, name: &str, alternatives: &str, constraints: &str) -> Certified {
        prerequisite::programs(&["openssl"]);
        let this = Self { directory: directory.to_owned() };
        let words = format!(
            "req -x509 -newkey rsa:2048 -nodes -sha256 -days 30 -subj /CN={name} -addext subjectAltName={alternatives} -addext basicConstraints={constraints} -keyout {name}.key -out {name}.crt"
        );
        this.openssl(&words);
        this.certified(name)
    }

    fn certified(&self, name: &str) -> Certified {
        Certified { certificate: self.directory.join(format!("{name}.crt")), key: self.directory.join(format!("{name}.key")) }
    }

    fn openssl(&self, words: &str) {
        let ran = Command::new("openssl").args(words.split(' ')).current_dir(&self.directory).output().expect("openssl runs");
        assert!(ran.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}
