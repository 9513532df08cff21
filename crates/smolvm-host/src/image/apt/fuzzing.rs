//! The host's sources of packages, and apt's answers.

use std::path::Path;

use super::sources::Sources;

/// What is made of one sources file: our own lines, and the file for guests.
pub fn sources(name: &str, text: &str, codename: &str) -> (usize, String, String) {
    let mut sources = Sources::default();
    sources.add(Path::new(name), text, codename);
    (sources.used.len(), sources.render("/k.gpg", "amd64"), sources.render_for_guests("/k.gpg"))
}

/// File, size and digest in apt's answer about a package.
pub fn candidate(answer: &str) -> Option<(String, u64, String)> {
    super::parse_candidate("p", answer).map(|found| (found.file, found.size, found.sha256.to_string()))
}

/// Whether a text may stand where apt expects a package.
pub fn is_package_name(name: &str) -> bool {
    super::is_package_name(name)
}
