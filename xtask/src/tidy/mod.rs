//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! ```text
//!   files of the checkout ──► Tree ──► rule, rule, rule … ──► every finding, grouped, with the reason
//! ```
//!
//! Invariants: a rule is a pure function of the tree, so each one is tested on a bad sample in
//! memory; all findings are reported, not the first; a rule says why it exists when it complains.

mod adr;
mod arrows;
mod chars;
mod links;
mod lock;
mod shape;
mod unsafety;
mod words;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// One text file of the checkout.
#[derive(Debug)]
pub(crate) struct Source {
    /// Relative to the checkout, with `/`.
    pub(crate) path: String,
    /// All of it.
    pub(crate) text: String,
}

/// The text files of the checkout, and the names of the others.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Everything that is UTF-8.
    pub(crate) files: Vec<Source>,
    /// Everything else, by path.
    pub(crate) binaries: Vec<String>,
    /// Directories of this machine that no file may name (none in a test's tree).
    pub(crate) places: Vec<String>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    what: String,
    weight: Weight,
}

/// Whether a finding fails the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Warn,
    Fail,
}

impl Finding {
    /// A failure in a file.
    pub(crate) fn file(path: &str, what: impl Into<String>) -> Self {
        Self { place: path.to_owned(), what: what.into(), weight: Weight::Fail }
    }

    /// A failure at a line, counted from 1.
    pub(crate) fn line(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: format!("{path}:{line}"), what: what.into(), weight: Weight::Fail }
    }

    /// The same, but only said.
    pub(crate) fn into_warning(mut self) -> Self {
        self.weight = Weight::Warn;
        self
    }
}

struct Rule {
    name: &'static str,
    reason: &'static str,
    check: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "arrows",
        reason: "data flows one way (cli → smolvm → host → model, proto; agent → proto): an arrow back makes two crates one",
        check: arrows::check,
    },
    Rule {
        name: "module docs",
        reason: "a file opens with its purpose, or the reader has to guess it from the code",
        check: shape::module_docs,
    },
    Rule { name: "file length", reason: "one verb or one resource per file: beyond 400 lines it is usually two", check: shape::length },
    Rule {
        name: "async",
        reason: "the core is synchronous; async has one home (smolvm-api), or every caller becomes async",
        check: words::no_async,
    },
    Rule {
        name: "catch-all errors",
        reason: "an error without fields cannot be handled by anybody, only printed",
        check: words::no_catch_all,
    },
    Rule {
        name: "unsafe",
        reason: "each file that needs unsafe is known by name, with the reason, so that a review can start there",
        check: unsafety::check,
    },
    Rule { name: "no skips", reason: "an ignored test is a promise nobody keeps; unfinished code is not merged", check: words::no_skips },
    Rule {
        name: "plain text",
        reason: "invisible and look-alike characters let a diff say something else than it does",
        check: chars::plain,
    },
    Rule { name: "no machine paths", reason: "what works only on its author's machine does not work", check: chars::no_machine_paths },
    Rule {
        name: "package cap",
        reason: "each package is somebody else's code in a tool that runs as root: growth is a decision",
        check: lock::package_cap,
    },
    Rule { name: "links", reason: "a page that points nowhere is worse than none", check: links::check },
    Rule { name: "decisions", reason: "a decision nobody finds is taken twice: docs/adr/README.md lists them all", check: adr::check },
];

/// What to do about the generated index of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Index {
    /// Complain when it is old.
    Check,
    /// Write it anew first.
    Rewrite,
}

/// The task.
pub(crate) fn run(workspace: &Workspace, index: Index) -> Result<()> {
    let mut tree = Tree::read(&workspace.root)?;
    if index == Index::Rewrite
        && let Some(text) = adr::index(&tree)
    {
        fs::write(workspace.root.join(adr::INDEX), text).context(adr::INDEX)?;
        tree = Tree::read(&workspace.root)?;
    }
    let mut failures = 0;
    for rule in RULES {
        let findings = (rule.check)(&tree);
        if findings.is_empty() {
            continue;
        }
        println!("{}: {}", rule.name, rule.reason);
        for finding in &findings {
            let weight = if finding.weight == Weight::Warn { "warning: " } else { "" };
            println!("  {weight}{}: {}", finding.place, finding.what);
        }
        println!();
        failures += findings.iter().filter(|finding| finding.weight == Weight::Fail).count();
    }
    if failures > 0 {
        bail!("tidy: {failures} findings in {} files", tree.files.len());
    }
    println!("tidy: {} rules hold in {} files", RULES.len(), tree.files.len());
    Ok(())
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let home = std::env::home_dir();
        // `/root` and `/src` may well stand in a file for another reason; two names in a row hardly.
        let places = [Some(root.to_owned()), home].into_iter().flatten().filter(|place| place.components().count() > 2);
        let mut tree = Self { places: places.map(|place| place.to_string_lossy().into_owned()).collect(), ..Self::default() };
        tree.walk(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    fn walk(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                // Build output, wherever it is, carries cargo's tag.
                if name != ".git" && !entry.path().join("CACHEDIR.TAG").exists() {
                    self.walk(&entry.path(), &format!("{path}/"))?;
                }
            } else if kind.is_file() {
                match String::from_utf8(fs::read(entry.path())?) {
                    Ok(text) => self.files.push(Source { path, text }),
                    Err(_) => self.binaries.push(path),
                }
            }
        }
        Ok(())
    }

    /// The files of the product and its tools, tests included.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| file.has_extension("rs"))
    }

    /// The file at `path`.
    pub(crate) fn file(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl Source {
    /// Whether the name ends in `.extension`.
    pub(crate) fn has_extension(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
    }

    /// Lines with their number, counted from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines of code: no comment lines, and string contents are left alone on purpose (cheap and good enough).
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

#[cfg(test)]
pub(crate) fn sample(files: &[(&str, &str)]) -> Tree {
    let files = files.iter().map(|(path, text)| Source { path: (*path).to_owned(), text: (*text).to_owned() }).collect();
    Tree { files, ..Tree::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_output_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("target/debug")).unwrap();
        fs::write(root.path().join("target/CACHEDIR.TAG"), "Signature").unwrap();
        fs::write(root.path().join("target/debug/x.rs"), "").unwrap();
        fs::create_dir_all(root.path().join("crates/a/src")).unwrap();
        fs::write(root.path().join("crates/a/src/lib.rs"), "//! A.").unwrap();
        fs::write(root.path().join("picture"), [0xff, 0xfe]).unwrap();
        let tree = Tree::read(root.path()).unwrap();
        assert_eq!(tree.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["crates/a/src/lib.rs"]);
        assert_eq!(tree.binaries, ["picture"]);
    }

    #[test]
    fn every_rule_accepts_an_empty_tree_or_says_what_is_missing() {
        for rule in RULES {
            let findings = (rule.check)(&Tree::default());
            assert!(findings.iter().all(|finding| !finding.what.is_empty()), "{}", rule.name);
        }
    }
}
