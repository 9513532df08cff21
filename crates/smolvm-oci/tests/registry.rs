//! Pulling from a registry that nobody here wrote, through a line that breaks, and from one that lies.
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use smolvm_model::reference::{Reference, Registry};
use smolvm_oci::Digest;
use smolvm_oci::document::{Manifest, Top, Unread};
use smolvm_oci::registry::{Access, At, Client, Login, RegistryError, Secret};
use support::registry::{DockerRegistry, push};
use support::told;
use testkit::{Answers, Reply};

fn client(text: &str, login: Option<Login>) -> Client {
    let reference = Reference::parse(text, &Registry::default()).unwrap();
    Client::new(&reference, At::home(&reference), &Access::default(), login).unwrap()
}

fn manifest(client: &Client, tag: &str) -> Manifest {
    let (bytes, _) = client.manifest(tag).unwrap();
    match (Unread { bytes: &bytes, architecture: "amd64" }).read().unwrap() {
        Top::Manifest(manifest) => manifest,
        Top::Index(descriptor) => panic!("an index: {descriptor:?}"),
    }
}

/// A file that can be read and written, and no name that matters.
fn scratch() -> File {
    tempfile::tempfile().unwrap()
}

#[test]
fn manifests_and_blobs_come_and_are_held_to_their_digests() {
    let registry = DockerRegistry::start(None);
    push(&registry, "a/b", "one", &[vec![1; 300_000]]);
    let client = client(&format!("{}/a/b:one", registry.address()), None);
    let manifest = manifest(&client, "one");
    let layer = &manifest.layers[0];
    let mut file = scratch();
    client.blob(&layer.digest, layer.size, &mut file, &mut |_| {}).unwrap();
    assert_eq!(file.metadata().unwrap().len(), layer.size);
    // Again into the same file: nothing to do.
    client.blob(&layer.digest, layer.size, &mut file, &mut |_| {}).unwrap();
    assert!(matches!(client.manifest("two"), Err(RegistryError::NotFound { name, .. }) if name == "a/b:two"));
    let other = Digest::of(b"other");
    assert!(matches!(client.blob(&other, 5, &mut scratch(), &mut |_| {}), Err(RegistryError::NotFound { .. })));
    // What a manifest says of a blob's length is held to, in both directions.
    let wrong = client.blob(&layer.digest, layer.size - 1, &mut scratch(), &mut |_| {}).unwrap_err();
    assert!(matches!(wrong, RegistryError::Length { .. }), "{wrong}");
}

#[test]
fn what_an_earlier_try_left_is_gone_on_from_and_what_is_wrong_in_it_is_found() {
    let registry = DockerRegistry::start(None);
    push(&registry, "a", "x", &[(0..200_000_u32).flat_map(u32::to_le_bytes).collect()]);
    let line = Breaking::before(&registry, usize::MAX);
    let client = client(&format!("{}/a:x", line.address), None);
    let layer = manifest(&client, "x").layers[0].clone();
    let mut whole = scratch();
    client.blob(&layer.digest, layer.size, &mut whole, &mut |_| {}).unwrap();
    let carried = line.carried.load(Ordering::SeqCst);
    whole.set_len(layer.size - 1000).unwrap();
    client.blob(&layer.digest, layer.size, &mut whole, &mut |_| {}).unwrap();
    assert!(line.carried.load(Ordering::SeqCst) - carried < 5000, "only what was missing was sent");
    let mut wrong = scratch();
    wrong.write_all(b"something else").unwrap();
    client.blob(&layer.digest, layer.size, &mut wrong, &mut |_| {}).unwrap();
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        bytes
    };
    assert!(read(&mut wrong) == read(&mut whole), "all of it was got anew");
}

#[test]
fn of_what_is_wrong_nothing_stays() {
    let server = Answers::start(|_| Reply::ok(vec![7; 5000]));
    let client = client(&format!("{}/a:x", server.address()), None);
    for begun in [0, 100] {
        let mut file = scratch();
        file.write_all(&vec![7; begun]).unwrap();
        let error = client.blob(&Digest::of(b"other"), 5000, &mut file, &mut |_| {}).unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
        assert_eq!(file.metadata().unwrap().len(), 0, "nothing can be built on it");
    }
}

#[test]
fn a_line_that_breaks_is_taken_up_again() {
    let registry = DockerRegistry::start(None);
    push(&registry, "a", "x", &[(0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()]);
    let line = Breaking::before(&registry, 400_000);
    let client = client(&format!("{}/a:x", line.address), None);
    let layer = manifest(&client, "x").layers[0].clone();
    assert!(layer.size > 1_000_000, "it breaks several times");
    let mut file = scratch();
    client.blob(&layer.digest, layer.size, &mut file, &mut |_| {}).unwrap();
    assert!(line.connections.load(Ordering::SeqCst) >= 3);
}

/// A registry that gives a hundred bytes each time is none that gives, and another may be asked.
#[test]
fn a_line_that_brings_next_to_nothing_is_given_up() {
    let registry = DockerRegistry::start(None);
    push(&registry, "a", "x", &[(0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()]);
    let whole = client(&format!("{}/a:x", registry.address()), None);
    let layer = manifest(&whole, "x").layers[0].clone();
    let line = Breaking::before(&registry, 700);
    let error = client(&format!("{}/a:x", line.address), None).blob(&layer.digest, layer.size, &mut scratch(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    let connections = line.connections.load(Ordering::SeqCst);
    assert!((2..20).contains(&connections), "{connections} connections");
}

#[test]
fn who_has_no_login_is_told_so_and_a_login_is_in_no_message() {
    let registry = DockerRegistry::start(Some(("me", "hunter2")));
    push(&registry, "a", "x", &[vec![1; 1000]]);
    let name = format!("{}/a:x", registry.address());
    let login = |password: &str| Some(Login::Password { user: "me".to_owned(), password: Secret::new(password.to_owned()) });
    let error = client(&name, None).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Denied { known: false, .. }), "{error}");
    let error = client(&name, login("hunter3")).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Denied { known: true, .. }), "{error}");
    assert!(!format!("{} {error:?}", told(&error)).contains("hunter"));
    let client = client(&name, login("hunter2"));
    assert_eq!(manifest(&client, "x").layers.len(), 1);
    assert!(!format!("{client:?}").contains("hunter2"));
}

#[test]
fn a_registry_that_says_later_is_asked_later() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = br#"{"schemaVersion":2}"#;
    std::thread::spawn(move || {
        for n in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let head = match n {
                0 => "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
                1 => "HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
                _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len()),
            };
            stream.write_all(head.as_bytes()).unwrap();
            if n == 2 {
                stream.write_all(body).unwrap();
            }
        }
    });
    let client = client(&format!("{address}/a:x"), None);
    assert_eq!(client.manifest("x").unwrap().0, body);
}

#[test]
fn a_document_that_is_too_long_is_not_taken() {
    let server = Answers::start(|_| Reply::ok(vec![b' '; (4 << 20) + 1]));
    let error = client(&format!("{}/a:x", server.address()), None).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::TooLong { limit, .. } if limit == 4 << 20), "{error:?}");
}

/// One that knows no ranges, one that thinks there is nothing left, and one that goes on elsewhere than it was asked to.
#[test]
fn a_registry_without_ranges_sends_it_all_again() {
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(&content);
    let answers: [fn(&[u8]) -> Reply; 3] = [
        |all| Reply::ok(all),
        |_| Reply::status(416),
        |all| Reply::partial(&all[999..]).header("Content-Range", format!("bytes 999-{}/{}", all.len() - 1, all.len())),
    ];
    for answer in answers {
        let given = content.clone();
        let server = Answers::start(move |asked| if asked.header("range").is_some() { answer(&given) } else { Reply::ok(&*given) });
        let mut file = scratch();
        file.write_all(&content[..1000]).unwrap();
        client(&format!("{}/a:x", server.address()), None).blob(&digest, content.len() as u64, &mut file, &mut |_| {}).unwrap();
        assert_eq!(server.asked()[0].header("range"), Some("bytes=1000-"));
        let mut read = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content);
    }
}

#[test]
fn nobody_there_is_said_at_once() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = std::time::Instant::now();
    let error = client(&format!("{address}/a:x"), None).manifest("x").unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    assert!(started.elapsed().as_secs() < 5);
}

/// A line that ends each connection after so many bytes.
struct Breaking {
    address: std::net::SocketAddr,
    connections: Arc<AtomicUsize>,
    carried: Arc<AtomicUsize>,
}

impl Breaking {
    fn before(registry: &DockerRegistry, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, carried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (seen, sum, to) = (Arc::clone(&connections), Arc::clone(&carried), registry.address());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
                seen.fetch_add(1, Ordering::SeqCst);
                let (mut up_from, mut up_to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up_from, &mut up_to));
                let sum = Arc::clone(&sum);
                std::thread::spawn(move || {
                    let (mut left, mut chunk) = (bytes, [0; 8192]);
                    let (mut server, mut client) = (server, client);
                    while let Ok(n @ 1..) = server.read(&mut chunk) {
                        let n = n.min(left);
                        sum.fetch_add(n, Ordering::SeqCst);
                        left -= n;
                        if client.write_all(&chunk[..n]).is_err() || left == 0 {
                            break;
                        }
                    }
                    let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
                });
            }
        });
        Self { address, connections, carried }
    }
}
