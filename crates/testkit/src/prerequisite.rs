//! What a test needs from outside; what is missing fails with the way to get it.

use std::env;
use std::path::PathBuf;

const WAY: &str = "run the tests with `cargo xtask test`, which builds and prepares everything";

/// The `smolvm` under test, with its agent embedded.
pub fn smolvm_bin() -> PathBuf {
    path_from("SMOLVM_BIN")
}

/// A home whose `cache` holds kernel and images. Shared by all tests: only to be read.
pub fn test_home() -> PathBuf {
    path_from("SMOLVM_TEST_HOME")
}

/// Whether there is time for tests that repeat until minutes have gone by (`cargo xtask test --long`).
pub fn long() -> bool {
    env::var_os("SMOLVM_LONG").is_some_and(|value| value == "1")
}

/// Fails unless every program is there.
pub fn programs(names: &[&str]) {
    for name in names {
        let dirs = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        assert!(
            dirs.iter().any(|dir| PathBuf::from(dir).join(name).is_file()),
            "`{name}` is not installed: `cargo xtask deps --for test` installs it"
        );
    }
}

/// Fails unless the test runs as root.
pub fn root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces and needs root");
}

fn path_from(variable: &str) -> PathBuf {
    let path = PathBuf::from(env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set: {WAY}")));
    assert!(path.exists(), "{variable} names {}, which does not exist: {WAY}", path.display());
    path
}
