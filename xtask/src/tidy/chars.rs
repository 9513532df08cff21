//! Characters and paths that do not belong in the checkout.

use super::{Finding, Tree};

/// The characters that change how a text looks without being seen, or that stand in for others.
fn offence(c: char, in_code: bool) -> Option<&'static str> {
    match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{061c}' => Some("changes the direction of text"),
        '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{00ad}' | '\u{180e}' | '\u{e0000}'..='\u{e007f}' => {
            Some("is invisible")
        }
        '\u{00a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => Some("is a space that is none"),
        '\u{0}'..='\u{8}' | '\u{b}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => Some("is a control character"),
        '\u{0370}'..='\u{052f}' | '\u{ff01}'..='\u{ff5e}' if in_code => Some("looks like a Latin letter"),
        _ => None,
    }
}

/// Corpora hold whatever a fuzz target is to be tried with.
const CORPORA: &str = "fuzz/corpus/";

/// No invisible or look-alike characters; code writes them as `\u{…}`.
pub(super) fn plain(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree
        .binaries
        .iter()
        .filter(|path| !path.contains("/golden/") && !path.starts_with(CORPORA))
        .map(|path| Finding::file(path, "is not UTF-8"))
        .collect();
    for file in tree.files.iter().filter(|file| !file.path.starts_with(CORPORA)) {
        for (number, line) in file.lines() {
            if let Some((c, why)) = line.chars().find_map(|c| Some((c, offence(c, file.has_extension("rs"))?))) {
                findings.push(Finding::line(&file.path, number, format!("U+{:04X} {why}", u32::from(c))));
            }
        }
    }
    findings
}

/// Neither the place of this very checkout nor the home of whoever runs this.
pub(super) fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines() {
            if let Some(path) = tree.places.iter().find(|place| line.contains(place.as_str())) {
                findings.push(Finding::line(&file.path, number, format!("names {path}, a directory of this machine")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn tricks_are_found() {
        for bad in ["a\u{202e}b", "a\u{200b}b", "a\u{00a0}b", "a\u{1b}[0m", "\u{feff}a", "let \u{0430} = 1;"] {
            assert_eq!(plain(&sample(&[("a.rs", bad)])).len(), 1, "{bad:?}");
        }
        assert!(plain(&sample(&[("a.rs", "// ──► … ×\tok"), ("a.md", "\u{03b1}"), ("fuzz/corpus/x/y", "\u{1b}")])).is_empty());
    }

    #[test]
    fn machine_paths_are_found() {
        let mut tree = sample(&[("a.rs", "\"/home/alice/x\""), ("b.md", "see /srv/build/smolvm/x"), ("c.rs", "HOME=/home/user")]);
        tree.places = vec!["/srv/build/smolvm".to_owned(), "/home/alice".to_owned()];
        assert_eq!(no_machine_paths(&tree).len(), 2);
    }
}
