//! How a registry is reached: with TLS and somebody's word for it, through a proxy, with a token from elsewhere; and who is told the login.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Digest;
use smolvm_oci::registry::{Access, At, Cause, Client, Login, Proxies, RegistryError, Secret, Trust};
use support::registry::{DockerRegistry, push};
use support::told;
use testkit::{Answers, Authority, Reply, TunnelProxy};

/// Where the certificates lie that are trusted.
fn trusting(bundle: &Path) -> Access {
    Access { trust: Trust { bundle: bundle.to_owned(), directories: Vec::new() }, proxies: Proxies::default() }
}

fn client(text: &str, plain_http: bool, access: &Access, login: Option<Login>) -> Client {
    let reference = Reference::parse(text, &Registry::default()).unwrap();
    Client::new(&reference, At { registry: reference.registry().clone(), plain_http }, access, login).unwrap()
}

fn me(password: &str) -> Login {
    Login::Password { user: "me".to_owned(), password: Secret::new(password.to_owned()) }
}

/// Pulls the manifest and every layer.
fn pull(client: &Client, tag: &str) -> Result<usize, RegistryError> {
    let (bytes, _) = client.manifest(tag)?;
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    for layer in layers {
        let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
        client.blob(&digest, layer["size"].as_u64().unwrap(), &mut tempfile::tempfile().unwrap(), &mut |_| {})?;
    }
    Ok(layers.len())
}

/// A registry of nothing but `/v2/a/…`, in which everybody finds the same.
const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

#[test]
fn a_registry_with_tls_is_known_by_the_host_or_by_its_own_authority_and_not_without() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|name| {
        let directory = dir.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        Authority::new(&directory)
    });
    let registry = DockerRegistry::with_tls(&ours.certify("registry", "IP:127.0.0.1"));
    push(&registry, "a", "x", &[vec![1; 100_000]]);
    let name = format!("{}/a:x", registry.address());
    // As SSL_CERT_FILE or the host's bundle have it.
    assert_eq!(pull(&client(&name, false, &trusting(&ours.certificate()), None), "x").unwrap(), 1);
    // As docker and podman have it, beside a bundle that knows others.
    let own = dir.path().join("certs.d").join(registry.address());
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(ours.certificate(), own.join("ca.crt")).unwrap();
    let mut access = trusting(&other.certificate());
    let stranger = client(&name, false, &access, None).manifest("x").unwrap_err();
    assert!(matches!(stranger, RegistryError::Unreachable { cause: Cause::Tls(_), .. }), "{stranger:?}");
    access.trust.directories.push(dir.path().join("certs.d"));
    assert_eq!(pull(&client(&name, false, &access, None), "x").unwrap(), 1);
    // Somebody else's name is not proven by it.
    let named = name.replace("127.0.0.1", "localhost");
    let error = client(&named, false, &trusting(&ours.certificate()), None).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { cause: Cause::Tls(_), .. }), "{error:?}");
}

#[test]
fn a_registry_that_certifies_itself_is_known_by_that_certificate_unless_it_is_an_authoritys() {
    let dir = tempfile::tempdir().unwrap();
    for (name, constraints, wanted) in [("plain", "CA:FALSE", true), ("authority", "critical,CA:TRUE", false)] {
        let certified = Authority::self_signed(dir.path(), name, "IP:127.0.0.1", constraints);
        let registry = DockerRegistry::with_tls(&certified);
        push(&registry, "a", "x", &[vec![1; 1000]]);
        let name = format!("{}/a:x", registry.address());
        match pull(&client(&name, false, &trusting(&certified.certificate), None), "x") {
            Ok(layers) => assert!(wanted && layers == 1, "{name}"),
            Err(error) => {
                assert!(!wanted, "{error:?}");
                assert!(matches!(&error, RegistryError::Unreachable { cause, .. } if cause.is_authority_itself()), "{error:?}");
            }
        }
    }
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_the_login_goes_there_alone() {
    let dir = tempfile::tempdir().unwrap();
    let certified = Authority::self_signed(dir.path(), "signer", "DNS:signer.test", "CA:TRUE");
    let signer = Arc::new(Signer::new(&certified.certificate, &certified.key));
    let (signs, header) = (Arc::clone(&signer), format!("Basic {}", STANDARD.encode("me:hunter2")));
    let tokens = Answers::start(move |asked| {
        let form = String::from_utf8_lossy(&asked.body);
        let has = |part: &str| form.split('&').any(|pair| pair == part);
        let refreshes = asked.method == "POST"
            && has("grant_type=refresh_token")
            && has("service=the-registry")
            && has("scope=repository%3Aa%2Fb%3Apull")
            && has("refresh_token=hunter4");
        if asked.header("authorization") != Some(&header) && !refreshes {
            return Reply::status(401);
        }
        Reply::ok(serde_json::json!({"token": signs.token("a/b", &["pull"])}).to_string())
    });
    let registry = DockerRegistry::with_tokens(&format!("http://{}/token", tokens.address()), &certified.certificate)
        .pushed_with(signer.token("a/b", &["pull", "push"]));
    push(&registry, "a/b", "x", &[vec![1; 100_000]]);
    let name = format!("{}/a/b:x", registry.address());
    let access = Access::default();
    assert_eq!(pull(&client(&name, true, &access, Some(me("hunter2"))), "x").unwrap(), 1);
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "one token is enough: {asked:?}");
    assert!(asked[0].path.contains("service=the-registry") && asked[0].path.contains("scope=repository%3Aa%2Fb%3Apull"), "{asked:?}");
    assert_eq!(pull(&client(&name, true, &access, Some(Login::Token(Secret::new("hunter4".to_owned())))), "x").unwrap(), 1);
    for (login, wanted) in [(None, false), (Some(me("hunter3")), true)] {
        let error = client(&name, true, &access, login).manifest("x").unwrap_err();
        assert!(matches!(error, RegistryError::Denied { known, .. } if known == wanted), "{error:?}");
        assert!(!format!("{error:?} {}", told(&error)).contains("hunter"));
    }
    // A repository that the token is not for is not told from one that is hidden.
    let hidden = client(&format!("{}/other:x", registry.address()), true, &access, Some(me("hunter2"))).manifest("x").unwrap_err();
    assert!(matches!(hidden, RegistryError::Denied { known: true, .. }), "{hidden:?}");
}

#[test]
fn a_token_that_has_run_out_is_fetched_anew() {
    let issued = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&issued);
    let tokens = Answers::start(move |_| Reply::ok(format!(r#"{{"access_token":"t{}"}}"#, counter.fetch_add(1, Ordering::SeqCst))));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.address());
    let used = Mutex::new(Vec::new());
    // Each token is good for one request.
    let registry = Answers::start(move |asked| {
        let mut used = used.lock().unwrap();
        match asked.header("authorization").map(str::to_owned) {
            Some(token) if !used.contains(&token) => {
                used.push(token);
                Reply::ok(MANIFEST)
            }
            _ => Reply::status(401).header("WWW-Authenticate", &*realm),
        }
    });
    let client = client(&format!("{}/a:x", registry.address()), true, &Access::default(), None);
    for _ in 0..3 {
        assert_eq!(client.manifest("x").unwrap().0, MANIFEST);
    }
    assert_eq!(issued.load(Ordering::SeqCst), 3);
}

#[test]
fn where_a_registry_sends_to_nobody_is_told_the_login() {
    let content = vec![7_u8; 50_000];
    let digest = Digest::of(&content);
    let tokens = Answers::start(|_| Reply::ok(r#"{"token":"stolen"}"#));
    let challenge = format!("Bearer realm=\"http://{}/token\"", tokens.address());
    let (given, asks) = (content.clone(), challenge.clone());
    let elsewhere = Answers::start(move |asked| match asked.path.as_str() {
        "/content?signature=hunter5" => Reply::ok(given.clone()),
        _ => Reply::status(401).header("WWW-Authenticate", &*asks),
    });
    // Another host by name, though it is the same machine.
    let other = format!("http://localhost:{}", elsewhere.address().port());
    // One that was to speak TLS, and does not.
    let nonsense = TcpListener::bind("127.0.0.1:0").unwrap();
    let locked = format!("https://{}/locked?signature=hunter5", nonsense.local_addr().unwrap());
    std::thread::spawn(move || nonsense.incoming().for_each(|stream| stream.unwrap().write_all(b"nonsense\r\n").unwrap()));
    let header = format!("Basic {}", STANDARD.encode("me:hunter2"));
    let registry = Answers::start(move |asked| match (asked.header("authorization") == Some(&header), asked.path.rsplit('/').next()) {
        (false, _) => Reply::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        (true, Some("x")) => Reply::ok(MANIFEST),
        (true, Some("curious")) => Reply::status(307).header("Location", format!("{other}/curious")),
        (true, Some("locked")) => Reply::status(307).header("Location", &*locked),
        (true, _) => Reply::status(307).header("Location", format!("{other}/content?signature=hunter5")),
    });
    let client = client(&format!("{}/a:x", registry.address()), true, &Access::default(), Some(me("hunter2")));
    let mut file = tempfile::tempfile().unwrap();
    client.blob(&digest, content.len() as u64, &mut file, &mut |_| {}).unwrap();
    // One that asks for a login is given none, nor is the place it names.
    let error = client.manifest("curious").unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    let asked = elsewhere.asked();
    assert!(asked.len() >= 2 && asked.iter().all(|asked| asked.header("authorization").is_none()), "{asked:?}");
    assert_eq!(tokens.asked(), []);
    // It may lead to TLS as well, and what is said of that has no address in it.
    let error = client.manifest("locked").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { cause: Cause::Tls(_), .. }), "{error:?}");
    assert!(!format!("{error:?} {}", told(&error)).contains("hunter"));
}

#[test]
fn a_registry_behind_a_proxy_is_reached_through_it_and_one_on_this_machine_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path());
    let registry = DockerRegistry::with_tls(&authority.certify("registry", "IP:127.0.0.1,DNS:registry.test"));
    push(&registry, "a", "x", &[vec![1; 1000]]);
    let at: SocketAddr = registry.address().parse().unwrap();
    let proxy = TunnelProxy::start(None, at, &format!("Basic {}", STANDARD.encode("me:hunter6")));
    let through = |password: &str| {
        let https = Some(Secret::new(format!("http://me:{password}@{}", proxy.address())));
        Access { proxies: Proxies { https, ..Proxies::default() }, ..trusting(&authority.certificate()) }
    };
    let name = format!("registry.test:{}/a:x", at.port());
    assert_eq!(pull(&client(&name, false, &through("hunter6"), None), "x").unwrap(), 1);
    let asked = proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked.path == format!("registry.test:{}", at.port())), "{asked:?}");
    let refused = client(&name, false, &through("hunter7"), None);
    let error = refused.manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { cause: Cause::Proxy, .. }), "{error:?}");
    assert!(!format!("{refused:?} {error:?} {}", told(&error)).contains("hunter"));
    let count = proxy.asked().len();
    assert_eq!(pull(&client(&format!("{at}/a:x"), false, &through("hunter6"), None), "x").unwrap(), 1);
    assert_eq!(proxy.asked().len(), count, "nobody asked the proxy");
}

#[test]
fn a_far_registry_without_tls_is_reached_through_the_proxy_for_such() {
    let registry = Answers::start(|_| Reply::ok(MANIFEST));
    let proxy = TunnelProxy::start(None, registry.address(), &format!("Basic {}", STANDARD.encode("me:hunter6")));
    let http = Some(Secret::new(format!("http://me:hunter6@{}", proxy.address())));
    let access = Access { proxies: Proxies { http, ..Proxies::default() }, ..Access::default() };
    assert_eq!(client("registry.test:5000/a:x", true, &access, None).manifest("x").unwrap().0, MANIFEST);
    assert_eq!(proxy.asked()[0].path, "registry.test:5000");
}

#[test]
fn a_registry_with_tls_that_is_spoken_to_without_is_said_to_be_odd() {
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::with_tls(&Authority::new(dir.path()).certify("registry", "IP:127.0.0.1"));
    let error = client(&format!("{}/a:x", registry.address()), true, &Access::default(), None).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 400, .. }), "{error:?}");
}

/// Signs tokens as the registry's own documentation has them.
struct Signer {
    header: String,
    key: std::path::PathBuf,
}

impl Signer {
    fn new(certificate: &Path, key: &Path) -> Self {
        let pem = std::fs::read_to_string(certificate).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [der]}).to_string();
        Self { header: URL_SAFE_NO_PAD.encode(header), key: key.to_owned() }
    }

    fn token(&self, repository: &str, actions: &[&str]) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = serde_json::json!({
            "iss": "the-issuer", "aud": "the-registry", "sub": "me", "jti": "1", "iat": now, "nbf": now - 60, "exp": now + 600,
            "access": [{"type": "repository", "name": repository, "actions": actions}],
        });
        let signed = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(claims.to_string()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("signed");
        std::fs::write(&file, &signed).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test starts programs")]
        let made = std::process::Command::new("openssl").args(["dgst", "-sha256", "-sign"]).arg(&self.key).arg(&file).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(made.stdout))
    }
}
