//! What lies beneath the scope's directories.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Bag, Scope, add, tolerated};

/// What an installation keeps when it has no sandbox: its directories, its database, its caches, and
/// its own lock files, whose names no sandbox can have (they begin with a dot).
const STAYS: &[&str] = &[
    "cache",
    "cache/*",
    "state",
    "state/state.db*",
    "state/sandboxes",
    "state/locks",
    "state/locks/.*",
    "state/trash",
    "state/snapshots",
    "state/snapshots/*",
    "run",
];

pub(super) fn look(scope: &Scope<'_>) -> Result<Bag> {
    let mut bag = Bag::new();
    for directory in &scope.directories {
        for (kind, path) in walk(directory)? {
            let relative = path.strip_prefix(directory).unwrap_or(&path).to_string_lossy().into_owned();
            if !tolerated(STAYS, &relative) && !tolerated(&scope.tolerated, &relative) {
                add(&mut bag, format!("{kind} {}", path.display()));
            }
        }
    }
    Ok(bag)
}

/// Everything beneath `directory`, no link followed; caches are not entered, for nothing in them is a sandbox's.
pub(super) fn walk(directory: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            // Not there yet, or gone while we looked.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| next.display().to_string()),
        };
        for entry in entries.flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            if kind.is_dir() && path != directory.join("cache") {
                open.push(path.clone());
            }
            let name = match kind {
                kind if kind.is_dir() => "directory",
                kind if kind.is_symlink() => "link",
                kind if kind.is_socket() => "socket",
                kind if kind.is_fifo() => "fifo",
                _ => "file",
            };
            found.push((name, path));
        }
    }
    Ok(found)
}
