//! Debian's `docker-registry` on a port of the loopback, and images put into it by its own protocol.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use smolvm_oci::Digest;
use smolvm_oci::document::media;
use testkit::Certified;

use super::Archive;

/// A registry that ends with the test.
pub struct DockerRegistry {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    login: Option<(String, String)>,
    token: Option<String>,
}

impl DockerRegistry {
    /// Starts one, that asks for this login if there is one.
    pub fn start(login: Option<(&str, &str)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let auth = login.map(|(user, password)| {
            testkit::prerequisite::programs(&["htpasswd"]);
            let passwords = dir.path().join("htpasswd");
            let made = Command::new("htpasswd").args(["-Bbn", user, password]).output().unwrap();
            std::fs::write(&passwords, made.stdout).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display())
        });
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let mut registry = Self::with(dir, None, &auth.unwrap_or_default());
        registry.login = login;
        registry
    }

    /// Starts one with TLS.
    pub fn with_tls(certified: &testkit::Certified) -> Self {
        Self::with(tempfile::tempdir().unwrap(), Some(certified), "")
    }

    /// Starts one that sends to somebody else for a token, who signs with this certificate's key.
    pub fn with_tokens(realm: &str, signer: &std::path::Path) -> Self {
        let signer = signer.display();
        let auth = format!(
            "auth:\n  token:\n    realm: {realm}\n    service: the-registry\n    issuer: the-issuer\n    rootcertbundle: {signer}\n"
        );
        Self::with(tempfile::tempdir().unwrap(), None, &auth)
    }

    fn with(dir: tempfile::TempDir, tls: Option<&testkit::Certified>, auth: &str) -> Self {
        testkit::prerequisite::programs(&["docker-registry", "skopeo"]);
        // Between the moment in which a port is free and that in which the registry listens somebody else may take it.
        let (child, port) = (0..5).find_map(|_| Self::listening(&dir, tls, auth)).expect("a port that stays free");
        Self { child, port, dir, login: None, token: None }
    }

    fn listening(dir: &tempfile::TempDir, tls: Option<&testkit::Certified>, auth: &str) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = dir.path().join("data");
        let tls = tls.map(|Certified { certificate, key }| {
            format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
        });
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{}{auth}",
            data.display(),
            tls.unwrap_or_default()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child =
            Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // One that cannot listen ends; whoever answers then is another.
        testkit::until("the registry listens", Duration::from_secs(20), || {
            let answers = TcpStream::connect(("127.0.0.1", port)).is_ok();
            (answers || child.try_wait().unwrap().is_some()).then_some(())
        });
        child.try_wait().unwrap().is_none().then_some((child, port))
    }

    /// Says this token when something is put into it.
    pub fn pushed_with(mut self, token: String) -> Self {
        self.token = Some(token);
        self
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts an image of these layers, each one file named by its number, into a registry: an OCI archive on the disk, copied by `skopeo`.
pub fn push(registry: &DockerRegistry, repository: &str, tag: &str, contents: &[Vec<u8>]) {
    let layers: Vec<Vec<u8>> = contents
        .iter()
        .enumerate()
        .map(|(n, c)| Archive::new().member(format!("file-{n}").as_bytes(), tar::EntryType::Regular, b"", c).end())
        .collect();
    let layout = registry.dir.path().join(format!("layout-{}-{tag}", repository.replace('/', "-")));
    write_layout(&layout, &layers, "{}");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
    if let Some((user, password)) = &registry.login {
        copy.args(["--dest-creds", &format!("{user}:{password}")]);
    }
    if let Some(token) = &registry.token {
        copy.args(["--dest-registry-token", token]);
    }
    let source = format!("oci:{}:x", layout.display());
    let copied = copy.arg(source).arg(format!("docker://{}/{repository}:{tag}", registry.address())).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

/// An OCI layout with one image, named `x`.
pub fn write_layout(layout: &std::path::Path, layers: &[Vec<u8>], config: &str) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    let descriptor = |kind: &str, (digest, size): (Digest, usize)| format!(r#""mediaType":"{kind}","digest":"{digest}","size":{size}"#);
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","config":{config},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, ids.join(","));
    let config = descriptor(media::CONFIG, put(config.as_bytes()));
    let layers: Vec<String> =
        layers.iter().map(|layer| format!("{{{}}}", descriptor("application/vnd.oci.image.layer.v1.tar", put(layer)))).collect();
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{{{config}}},"layers":[{}]}}"#, media::MANIFEST, layers.join(","));
    let manifest = descriptor(media::MANIFEST, put(manifest.as_bytes()));
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{{manifest},"annotations":{{"org.opencontainers.image.ref.name":"x"}}}}]}}"#);
    std::fs::write(layout.join("index.json"), index).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
