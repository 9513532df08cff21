//! Parsing of answers and files; the real apt is in `tests/image_setup.rs`.

use super::*;

#[test]
fn candidates_are_read_and_hostile_ones_refused() {
    let hash = "00be21c0c17f08ddf26e82d3b53fe7a41efa4a288938da6bb69e89c4b25c281d";
    let line = |file: &str, size: &str, hash: &str| format!("'http://m/debian/pool/{file}' {file} {size} {hash}\n");
    let good = parse_candidate("p", &line("p_1%3a1.deb", "1504", &format!("SHA256:{hash}"))).unwrap();
    assert_eq!((good.file.as_str(), good.size, good.sha256.hex()), ("p_1%3a1.deb", 1504, hash));
    for text in [
        String::new(),
        line("p.deb", "1504", "MD5Sum:e27389b1c4136650ce21b8822de26af2"),
        line("../p.deb", "1504", &format!("SHA256:{hash}")),
        line("p.exe", "1504", &format!("SHA256:{hash}")),
        line("p.deb", "-1", &format!("SHA256:{hash}")),
        line("p.deb", "99999999999999", &format!("SHA256:{hash}")),
        line("p.deb", "1504", ""),
    ] {
        assert_eq!(parse_candidate("p", &text), None, "{text}");
    }
}

#[test]
fn package_names() {
    for good in ["linux-image-6.1.0-56-cloud-amd64", "g++", "0ad"] {
        assert!(is_package_name(good), "{good}");
    }
    for bad in ["", "a", "-o", "a b", "A1", "a/b", "a=1", &"a".repeat(200)] {
        assert!(!is_package_name(bad), "{bad}");
    }
}

fn etc(os_release: &str, sources: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("apt/sources.list.d")).unwrap();
    std::fs::write(dir.path().join("os-release"), os_release).unwrap();
    std::fs::write(dir.path().join("apt/sources.list.d/x.sources"), sources).unwrap();
    dir
}

const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

#[test]
fn other_distributions_and_hosts_without_debians_sources_are_told() {
    let dir = etc("ID=ubuntu\nVERSION_CODENAME=noble\n", "");
    assert!(matches!(host_sources(dir.path()), Err(AptError::NotDebian { id }) if id == "ubuntu"));
    let dir = etc("ID=debian\nVERSION_CODENAME=\"a b\"\n", "");
    assert!(matches!(host_sources(dir.path()), Err(AptError::NotDebian { .. })));
    let vendor = "Types: deb\nURIs: https://vendor.example/apt\nSuites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/v.gpg\n";
    let dir = etc(DEBIAN, vendor);
    assert!(matches!(host_sources(dir.path()), Err(AptError::NoSources { skipped, .. }) if skipped.len() == 1));
}

#[test]
fn vendors_beside_debian_do_not_get_in() {
    let dir = etc(DEBIAN, "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\n");
    std::fs::write(dir.path().join("apt/sources.list.d/v.list"), "deb [trusted=yes] https://vendor.example/apt bookworm main\n").unwrap();
    let sources = host_sources(dir.path()).unwrap();
    assert_eq!(sources.render("/k", "amd64"), "deb [arch=amd64 signed-by=/k] http://m.example/debian bookworm main\n");
}

#[test]
fn paths_that_would_end_the_quotation_are_refused() {
    for bad in ["/tmp/a\";X \"b", "/tmp/a\nb", "/tmp/a\\b", "relative"] {
        assert!(matches!(Apt::with_sources(Path::new(bad), "", &mut |_| {}), Err(AptError::OddPath { .. })), "{bad:?}");
        assert!(!Path::new(bad).exists());
    }
}

/// A repository that nobody signed: apt must refuse it, for root too.
#[test]
fn an_unsigned_repository_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let repository = tempfile::tempdir().unwrap();
    std::fs::write(repository.path().join("Packages"), "").unwrap();
    std::fs::write(repository.path().join("Release"), "Origin: Debian\nSuite: stable\n").unwrap();
    let sources = format!("deb [signed-by={}] file:{} ./\n", keyring().unwrap(), repository.path().display());
    let error = Apt::with_sources(cache.path(), &sources, &mut |_| {}).unwrap_err();
    assert!(matches!(error, AptError::NotSigned { .. }), "{error:?}");
}

#[test]
fn a_mirror_that_is_not_there_is_unreachable() {
    let cache = tempfile::tempdir().unwrap();
    // Port 9 of the local host: refused at once, nothing leaves the machine.
    let sources = format!("deb [signed-by={}] http://127.0.0.1:9/debian bookworm main\n", keyring().unwrap());
    let error = Apt::with_sources(cache.path(), &sources, &mut |_| {}).unwrap_err();
    assert!(matches!(error, AptError::Unreachable { .. }), "{error:?}");
    // And it is not taken for done afterwards.
    assert!(Apt::with_sources(cache.path(), &sources, &mut |_| {}).is_err());
}
