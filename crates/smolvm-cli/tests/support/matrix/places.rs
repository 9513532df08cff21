//! Where in the code the host is changed: read from the source, and from the trace of a run.
//!
//! An effect has a name, and often more than one place in the code that has it happen. A matrix that knows names only
//! takes the publishing of an image for that of a kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// How the gate is asked.
const CALLS: [&str; 3] = ["perform(", "perform_once(", "permitted("];
/// The crates in which it is.
const CRATES: [&str; 3] = ["crates/smolvm", "crates/smolvm-host", "crates/smolvm-cli"];

/// A call of the gate, as `crates/…/file.rs:line`, which is how a trace names it.
pub(crate) type Place = String;

/// The function that it is in, for people and for lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Within {
    file: String,
    function: String,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.file, self.function)
    }
}

/// Every call of the gate in the product.
pub(crate) fn all() -> BTreeMap<Place, Within> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut found = BTreeMap::new();
    for crate_dir in CRATES {
        let mut open = vec![root.join(crate_dir).join("src")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
                // The gate itself, and what is for tests.
                let other = matches!(name.as_str(), "effect" | "tests" | "tests.rs" | "testing.rs");
                if path.is_dir() && !other {
                    open.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") && !other {
                    let shown = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                    found.extend(calls(&shown, &std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    found
}

fn calls(file: &str, text: &str) -> Vec<(Place, Within)> {
    let mut found = Vec::new();
    let mut function = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        // Its tests are the end of a file.
        if line.starts_with("mod tests {") || line.ends_with(" mod tests {") {
            break;
        }
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        if let Some((_, rest)) = code.split_once("fn ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() && rest[name.len()..].starts_with(['(', '<']) {
                function = name;
            }
        }
        let asks = |call: &&str| {
            code.match_indices(*call).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.')))
        };
        if CALLS.iter().any(asks) {
            found.push((format!("{file}:{number}"), Within { file: file.to_owned(), function: function.clone() }));
        }
    }
    found
}
